"""``pages.json`` as far as it needs no browser: other sites' forms, origins, exports as tables, the document.

Its other ``xss`` cases are played in Chromium by ``tests/e2e/test_admin_hostile.py``, and ``csv`` there once more by
``test_admin_exports.py``.
"""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flaskllm.app import create_app
from flaskllm.config import Settings
from flaskllm.domain.batch import LONGEST_ID
from flaskllm.services.batch_worker import Bounds
from tests.applications import dispose
from tests.conftest import MakeApp, plain_environment, provider_environment
from tests.doors.accounts_world import Person, expanded
from tests.doors.visitor import Visitor
from tests.upstream import Upstream, faults
from tests.wire.test_xlsx import cells

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "pages.json").read_text(encoding="utf-8"))
NEW_PROVIDER = "/admin/providers/~new/openai_compatible"
"""What the corpus calls ``POST /admin/providers``."""
BY_LINK = "/admin/providers/demo/delete"
"""Where a provider is changed and no form is shown."""


def of(group: str) -> list[Any]:
    return [pytest.param(case, id=case["id"]) for case in CASES if case["group"] == group]


# -- forms of other sites ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", of("admin.csrf"))
def test_a_form_that_is_not_of_this_session_makes_no_provider(case: dict[str, Any], app: Flask) -> None:
    root = Visitor.admin(app)
    old = root.token()
    root.sign_in()
    form = {
        "csrf": root.token(),
        "provider_id": "mine",
        "display_name": "Mine",
        "param-base_url": "https://example.com/v1",
    }
    said, before = case["input"], catalogue(app)
    headers = said.get("headers", {})
    if said.get("as_link"):
        answer = root.http.get(BY_LINK, query_string=form)
        assert root.get(NEW_PROVIDER, query_string=form, status=400).status_code == 400
    else:
        tokens = {
            "of another session": Visitor.admin(app, "other").token,
            "of an old session of the same user": lambda: old,
        }
        if "csrf" in said:
            form["csrf"] = tokens[said["csrf"]]()
        answer = root.http.post(NEW_PROVIDER, data=form, headers=headers)
    assert answer.status_code in case["expect"]["status"], answer.text
    assert catalogue(app) == before


def catalogue(app: Flask) -> list[str]:
    services = app.extensions["flaskllm"]
    return [repr(provider) for provider in services.catalogue.refresh().ordered]


def test_the_same_form_with_its_own_token_makes_one(app: Flask) -> None:
    """Else the cases above would show nothing."""
    root = Visitor.admin(app)
    form = {"provider_id": "mine", "display_name": "Mine", "param-api_base": "https://example.com/v1"}
    assert root.post(NEW_PROVIDER, form).status_code == 303
    assert any("mine" in provider for provider in catalogue(app))


# -- origins ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", of("admin.cors"))
def test_only_the_origin_that_was_named_may_call(case: dict[str, Any], make_app: MakeApp) -> None:
    said = case["input"]
    app = make_app(ALLOWED_ORIGINS=said["ALLOWED_ORIGINS"])
    answer = app.test_client().options(case["path"], headers=said["headers"])
    assert answer.status_code in case["expect"]["status"]
    is_named = said["headers"]["Origin"] == said["ALLOWED_ORIGINS"]
    assert answer.headers.get("Access-Control-Allow-Origin") == (said["ALLOWED_ORIGINS"] if is_named else None)
    assert "Access-Control-Allow-Credentials" not in answer.headers
    assert not is_named or "Origin" in answer.headers["Vary"]


# -- exports ----------------------------------------------------------------------------------------------------------

STARTS_A_FORMULA = re.compile(r"\s*[=+\-@|%＝＋－＠]|[\t\r]")
"""Written apart from the gateway's own, which looks behind more."""
SPLIT = {"CSV-021": "';'=1+1"}
"""Where spreadsheets that split at semicolons would begin a cell."""
NUMBERS = {"index", "prompt_tokens", "completion_tokens", "total_tokens", "cost", "requests", "errors"}


@dataclass
class Exports:
    """What was said under each case's cell, taken home in every form."""

    table: list[dict[str, str]]
    raw: str
    lines: list[dict[str, Any]]
    usage: list[dict[str, str]]
    book: list[list[tuple[str | None, str | None]]]
    places: dict[str, int]
    """Where each case's item stands."""
    numbers: set[str]


def cell_of(case: dict[str, Any]) -> str:
    return str(expanded(case["input"])["cell"])


def can_name(cell: str) -> bool:
    """Whether the doors take it for a name: one line, of so many characters."""
    return len(cell) <= LONGEST_ID and cell.isprintable()


def kept_of(case: dict[str, Any]) -> str:
    """As it is stored: not every database holds a NUL, and what stands there shows that something did."""
    return cell_of(case).replace("\0", "\ufffd")


def neutral_of(case: dict[str, Any]) -> str:
    """As a table has it."""
    kept = kept_of(case)
    return SPLIT.get(case["id"], f"'{kept}" if STARTS_A_FORMULA.match(kept.lstrip('"')) else kept)


@pytest.fixture(scope="module")
def exports(
    template_database: Path, simulator: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Exports]:
    """One job whose model says each cell, asked for it under a `custom_id` that is it; and a token of each name."""
    folder = tmp_path_factory.mktemp("exports")
    (folder / "instance").mkdir()
    shutil.copy(template_database, folder / "instance" / "app.db")
    environment = plain_environment(folder, LOG_DIR="", **provider_environment(simulator, "openai"))
    app = create_app(Settings.load(environment, root=folder))
    simulator.reset()
    yield exported(app, simulator)
    simulator.reset()
    dispose(app)


def exported(app: Flask, upstream: Upstream) -> Exports:
    alice, root = Person(app), Person(app, "root", admin=True)
    every = [case for case in CASES if case["group"] == "csv"]
    items = []
    for case in every:
        cell = cell_of(case)
        prompt = cell.replace("\0", "")  # people's texts are refused for it, models' are not
        items.append({"prompt": prompt, **({"custom_id": cell} if can_name(cell) else {})})
        upstream.script(faults.text(cell), times=1)
    sent = alice.call("POST", "/v1/batch/generate", {"requests": items, "model": "gpt-4o-mini", "max_concurrency": 1})
    assert sent.status_code == 202, sent.json
    app.extensions["flaskllm"].batch_worker.work(Bounds())
    for case in every:
        if can_name(cell_of(case)):
            _, token = alice.token(name=cell_of(case), scopes=["chat"])
            asked = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}
            answer = alice.http.post("/v1/chat/completions", json=asked, headers={"Authorization": f"Bearer {token}"})
            assert answer.status_code == 200, answer.json
    results, usage = f"/v1/batch/{sent.json['job_id']}/results?format=", "/usage?group_by=token&format="
    table, lines = alice.call("GET", results + "csv"), alice.call("GET", results + "jsonl")
    counted, book = root.call("GET", usage + "csv"), root.call("GET", usage + "xlsx")
    assert [answer.status_code for answer in (table, lines, counted, book)] == [200] * 4
    assert table.mimetype == "text/csv"
    read, of_usage = read_table(table.text), read_table(counted.text)
    return Exports(
        table=read,
        raw=table.text,
        lines=[json.loads(line) for line in lines.text.splitlines()],
        usage=of_usage,
        book=cells(book.data),
        places={case["id"]: place for place, case in enumerate(every)},
        numbers=NUMBERS & {*read[0], *of_usage[0]},
    )


def read_table(text: str) -> list[dict[str, str]]:
    """As RFC 4180 has it: quoted, a CRLF behind each line, and nothing that a strict reader stumbles over."""
    text = text.removeprefix("\ufeff")
    rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    again = io.StringIO()
    csv.writer(again, quoting=csv.QUOTE_ALL, lineterminator="\r\n").writerows(rows)
    assert again.getvalue() == text
    assert {len(row) for row in rows} == {len(rows[0])}
    return [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]


@pytest.mark.parametrize("case", of("csv"))
def test_a_table_starts_no_formula_and_loses_nothing(case: dict[str, Any], exports: Exports) -> None:
    """No LibreOffice is asked: no cell of a table begins as a formula does, and a workbook has texts and numbers only
    (`tests.wire.test_xlsx.cells` refuses a formula)."""
    cell, row = cell_of(case), exports.table[exports.places[case["id"]]]
    line = exports.lines[exports.places[case["id"]]]
    assert line["text"] == kept_of(case)
    assert row["text"] == neutral_of(case)
    if can_name(cell):
        assert line["custom_id"] == cell
        assert row["custom_id"] == neutral_of(case)
        assert neutral_of(case) in {one["token_name"] for one in exports.usage}
        assert ("text", cell) in [found for cells_ in exports.book for found in cells_]
    for name, value in [*row.items(), *(pair for one in exports.usage for pair in one.items())]:
        if name in exports.numbers:
            float(value)
        else:
            assert not STARTS_A_FORMULA.match(value), (name, value)


def test_numbers_of_a_workbook_are_numbers(exports: Exports) -> None:
    kinds = {kind for row in exports.book[1:] for kind, _ in row}
    assert kinds - {None} == {"text", "number"}


# -- what anybody may read ---------------------------------------------------------------------------------------------


def test_a_path_that_is_not_there_is_told_as_json_and_not_repeated_raw(app: Flask) -> None:
    """XSS-028, as a program sees it."""
    answer = app.test_client().get("/nonexistent/<script>alert(1)</script>")
    assert (answer.status_code, answer.mimetype) == (404, "application/json")
    assert "<script>" not in answer.text
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_the_document_tells_no_secret_and_no_inner_host(make_app: MakeApp, upstream: Upstream) -> None:
    """XSS-031. Loopback is everybody's, and stands in an example."""
    told = {**provider_environment(upstream), "API_TOKEN": "an-environment-token-0123456789abcdef"}
    document = make_app(**told).test_client().get("/openapi.json").text
    for name, value in told.items():
        assert value not in document, name
    assert not re.search(r"https?://(?:10\.|192\.168\.|172\.(?:1[6-9]|2\d|3[01])\.|127\.(?!0\.0\.1[:/]))", document)
