"""Every call in ``requests/*.rest`` works as it stands there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.actors import Caller, access_token
from tests.conftest import MakeApp
from tests.places import as_json, place

FILES = sorted((Path(__file__).parent.parent / "requests").glob("*.rest"))
METRICS_TOKEN = "metrics-token-of-forty-characters-0123456789"
PLACEHOLDER = re.compile(r"\{\{([\w.]+)\}\}")


@dataclass
class Call:
    """One block of a file: the request line, its headers, its body, and the name its answer is known by."""

    method: str
    url: str
    name: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""


def calls(text: str) -> Iterator[Call]:
    for block in re.split(r"^###.*$", text, flags=re.MULTILINE)[1:]:
        head, _, body = block.strip().partition("\n\n")
        lines = head.splitlines()
        name = next((line.split()[-1] for line in lines if line.startswith("# @name")), None)
        first, *headers = [line for line in lines if line and not line.startswith(("#", "@"))]
        method, url = first.split(" ", 1)
        yield Call(method, url, name, dict(line.split(": ", 1) for line in headers), body.strip())


def fill(text: str, known: dict[str, Any]) -> str:
    def value(found: re.Match[str]) -> str:
        held: Any = known
        for part in found[1].split("."):
            held = held[part]
        return str(held)

    return PLACEHOLDER.sub(value, text)


@pytest.fixture
def target() -> Iterator[str]:
    """A place that external calls may reach."""
    with place(as_json({"ok": True})) as found:
        yield f"http://127.0.0.1:{found.port}"


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_every_call_of_the_file_answers(file: Path, make_app: MakeApp, target: str) -> None:
    app = make_app(METRICS_TOKEN=METRICS_TOKEN, CHAT_PAGE="true")
    caller = Caller.on(app)
    known: dict[str, Any] = {"host": "", "token": caller.token, "metrics_token": METRICS_TOKEN}
    known["admin_token"] = access_token(app, "administrator", admin=True)
    known |= {"external_token": Caller.on(app, scopes=["external"]).token, "target": target}
    for call in calls(file.read_text()):
        url, headers = fill(call.url, known), {name: fill(value, known) for name, value in call.headers.items()}
        response = caller.http.open(url, method=call.method, headers=headers, data=fill(call.body, known) or None)
        said = response.data.decode(errors="replace")  # a workbook is no text
        assert response.status_code < 300, f"{call.method} {call.url}: {said}"
        if call.name:
            known[call.name] = {"response": {"body": response.json}}


def test_the_folder_never_hides_the_library_of_that_name() -> None:
    assert FILES
    assert not (FILES[0].parent / "__init__.py").exists()
