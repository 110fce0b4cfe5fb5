"""``docs/adding-a-provider.md``, followed: a package of somebody else's adds a provider without a change here."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.servers import ROOT, Gateway, gunicorn
from tests.places import serving

pytestmark = pytest.mark.e2e
PAGE = (ROOT / "docs" / "adding-a-provider.md").read_text()
KEY = "acme-key-0123456789"


def block(language: str) -> str:
    """The page's one listing in this language."""
    [found] = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


@dataclass
class Acme:
    """The vendor of the page, on a socket."""

    url: str = ""
    seen: list[dict[str, Any]] = field(default_factory=list)
    status: int = 200


@pytest.fixture(scope="module")
def acme() -> Iterator[Acme]:
    told = Acme()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            told.seen.append({"body": body, "path": self.path, "headers": dict(self.headers)})
            words = body["text"].rpartition(": ")[2].split()
            tokens = {"in": len(body["text"].split()), "out": len(words)}
            if told.status != 200 or self.headers["X-Acme-Key"] != KEY:
                self.answer(told.status if told.status != 200 else 401, "application/json", [{"error": "no"}])
            elif body["stream"]:
                events = [{"text": word + " "} for word in words] + [{"tokens": tokens}]
                self.answer(200, "text/event-stream", events)
            else:
                self.answer(200, "application/json", [{"id": "a1", "text": " ".join(words), "tokens": tokens}])

        def answer(self, status: int, kind: str, parts: list[Any]) -> None:
            form = "data: %s\n\n" if kind == "text/event-stream" else "%s"
            raw = "".join(form % json.dumps(part) for part in parts).encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: Any) -> None: ...

    with serving(Handler) as port:
        told.url = f"http://127.0.0.1:{port}"
        yield told


def installed(folder: Path) -> Path:
    """The page's package as a wheel, installed by pip into a folder: no index, no network."""
    project = tomllib.loads(block("toml"))["project"]
    name = project["name"].replace("-", "_")
    info = f"{name}-{project['version']}.dist-info"
    points = "".join(
        f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in held.items())
        for group, held in project["entry-points"].items()
    )
    wheel = folder / f"{name}-{project['version']}-py3-none-any.whl"
    files = {
        "flaskllm_acme.py": block("python"),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": points,
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
        archive.writestr(f"{info}/RECORD", "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"]))
    target = folder / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(target)]
    subprocess.run([*command, str(wheel)], check=True, timeout=120)
    return target


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("foreign")
    with gunicorn(folder, PYTHONPATH=str(installed(folder)), ALLOW_PRIVATE_PROVIDERS="true") as running:
        yield running


@pytest.fixture(scope="module")
def admin(gateway: Gateway) -> str:
    gateway.administrator("boss")
    _, body, _ = gateway.post("/api/auth/login", {"username": "boss", "password": "Password123"})
    return str(body["data"]["access_token"])


def document(acme: Acme) -> dict[str, Any]:
    """The page's last call, with the vendor's address and key filled in."""
    printed = re.findall(r"-d '(\{.*?\n\})'", PAGE, re.DOTALL)[-1]
    found: dict[str, Any] = json.loads(printed)
    found["connection_params"]["api_base"] = acme.url
    found["api_key"] = {"key_value": KEY}
    return found


@pytest.fixture(scope="module")
def provider(gateway: Gateway, admin: str, acme: Acme) -> str:
    status, body, _ = gateway.post("/providers", document(acme), admin)
    assert status == 201, body
    return str(body["provider_id"])


def test_what_its_description_asks_for_is_checked(gateway: Gateway, admin: str, acme: Acme) -> None:
    lacking = {**document(acme), "provider_id": "lacking", "connection_params": {"api_base": acme.url}}
    status, body, _ = gateway.post("/providers", lacking, admin)
    assert (status, body["error"]["details"][0]["field"]) == (400, "connection_params.workspace")


def test_it_answers_and_is_accounted_for(gateway: Gateway, provider: str, acme: Acme) -> None:
    token = gateway.token("--scope", "chat")
    question = {"model": "acme-1", "messages": [{"role": "user", "content": "one two three"}], "max_tokens": 9}
    status, body, headers = gateway.post("/v1/chat/completions", question, token)
    assert (status, body["choices"][0]["message"]["content"]) == (200, "one two three")
    assert headers["x-flaskllm-provider"] == provider
    assert body["usage"]["completion_tokens"] == 3
    assert float(headers["x-flaskllm-cost"]) == pytest.approx((4 * 1 + 3 * 2) / 1e6)
    sent = acme.seen[-1]
    assert sent["body"] == {"engine": "acme-1", "text": "user: one two three", "stream": False, "limit": 9}
    assert sent["headers"]["X-Acme-Workspace"] == "research"


def test_it_streams(gateway: Gateway, provider: str) -> None:
    token = gateway.token("--scope", "chat")
    question = {"model": "acme-1", "messages": [{"role": "user", "content": "one two"}], "stream": True,
                "stream_options": {"include_usage": True}}  # fmt: skip
    status, text, _ = gateway.post("/v1/chat/completions", question, token)
    frames = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    said = "".join(choice["delta"].get("content") or "" for frame in frames for choice in frame["choices"])
    assert (status, said.strip()) == (200, "one two")
    assert frames[-1]["usage"]["completion_tokens"] == 2
    assert text.rstrip().endswith("[DONE]")


def test_what_it_lacks_is_refused_by_name(gateway: Gateway, provider: str) -> None:
    token = gateway.token("--scope", "chat")
    question = {"model": "acme-1", "messages": [{"role": "user", "content": "x"}], "seed": 7}
    status, body, _ = gateway.post("/v1/chat/completions", question, token)
    assert (status, body["error"]["param"]) == (400, "seed")
    status, _, headers = gateway.post("/v1/chat/completions", {**question, "drop_params": True}, token)
    assert (status, headers["x-flaskllm-dropped-params"]) == (200, "seed")


def test_its_failures_are_the_contracts(gateway: Gateway, provider: str, acme: Acme) -> None:
    token = gateway.token("--scope", "chat")
    acme.status = 500
    try:
        question = {"model": "acme-1", "messages": [{"role": "user", "content": "x"}]}
        status, body, _ = gateway.post("/v1/chat/completions", question, token)
    finally:
        acme.status = 200
    assert (status, body["error"]["code"]) == (502, "provider_error")
