"""The corpus' group ``csv`` in Chromium: what models, users and tokens' names say is stored through the real doors, and
an administrator takes it home by a click on the pages' own links. No cell of a file is a formula, nothing is lost, and
the pages that show the texts run nothing.

One gateway and one walk for all cases; each then looks at its own cells in the files.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from flaskllm.blueprints.admin.batches import LONGEST_SHOWN
from tests.conftest import provider_environment
from tests.corpus.test_pages import (
    CASES,
    NUMBERS,
    STARTS_A_FORMULA,
    can_name,
    cell_of,
    kept_of,
    neutral_of,
    of,
    read_table,
)
from tests.e2e import servers
from tests.e2e.administrators import Administrator, gateway_with_administrators, signed_in
from tests.e2e.test_admin_hostile import LIVE, READ
from tests.people import PASSWORD
from tests.upstream import RemoteUpstream, faults
from tests.wire.test_xlsx import cells

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

EVERY = [case for case in CASES if case["group"] == "csv"]
KINDS = {
    "csv": "text/csv; charset=utf-8",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "jsonl": "application/jsonl",
}


@dataclass
class File:
    """What the browser kept of a click on a link: its name, what was said of it, and its bytes."""

    name: str
    headers: dict[str, str]
    body: bytes


@dataclass
class TakenHome:
    """The files, and all that was noticed on the pages which link to them."""

    files: dict[str, File] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)
    live: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)
    strangers: set[str] = field(default_factory=set)
    complaints: list[str] = field(default_factory=list)

    def table(self, name: str) -> list[dict[str, str]]:
        return read_table(self.files[name].body.decode("utf-8", "strict"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, remote_simulator: RemoteUpstream, browser: Any) -> TakenHome:
    """A gateway on which every case's text stands in each of its places, and what its administrator found there."""
    folder = tmp_path_factory.mktemp("exports")
    remote_simulator.reset()
    environment = provider_environment(remote_simulator, "openai")  # type: ignore[arg-type]
    with gateway_with_administrators(folder, "root", **environment) as gateway:
        job_id = store_everything(gateway, remote_simulator)
        with signed_in(gateway, browser) as administrator:
            found = walked(administrator, job_id, folder)
    remote_simulator.reset()
    return found


def store_everything(gateway: servers.Gateway, upstream: RemoteUpstream) -> str:
    """One job whose model says each cell, asked for it under a `custom_id` that is it; and a token of each name that
    has called. Gives the job's id."""
    _, session, _ = gateway.post("/api/auth/login", {"username": "root", "password": PASSWORD})
    access = session["data"]["access_token"]

    def taken(path: str, body: Any, status: int, token: str = access) -> Any:
        found, document, _ = gateway.post(path, body, token)
        assert found == status, (path, document)
        return document

    items = []
    for cell in map(cell_of, EVERY):
        prompt = cell.replace("\0", "")  # people's texts are refused for it, models' are not
        items.append({"prompt": prompt, **({"custom_id": cell} if can_name(cell) else {})})
        upstream.script(faults.text(cell), times=1)
    asked = {"requests": items, "model": "openai/gpt-4o-mini", "max_concurrency": 1}
    job_id: str = taken("/v1/batch/generate", asked, 202)["job_id"]
    gateway.flask("worker", "--once")
    for cell in filter(can_name, map(cell_of, EVERY)):
        token = taken("/api/tokens", {"name": cell, "scopes": ["chat"]}, 201)["data"]["token"]
        taken("/llm/chat", {"message": cell}, 200, token)
    return job_id


def walked(administrator: Administrator, job_id: str, folder: Path) -> TakenHome:
    found, seen = TakenHome(), administrator.seen
    pages = {
        f"batches/{job_id}": {"results.csv": "CSV", "results.jsonl": "JSON lines"},
        "usage?by=token&then=user": {"usage.csv": "Download as CSV", "usage.xlsx": "Download as XLSX"},
    }
    for address, links in pages.items():
        administrator.goes(address)
        found.words[address.partition("/")[0].partition("?")[0]] = seen.page.evaluate(READ)
        found.live += seen.page.evaluate(LIVE)
        for name, words in links.items():
            found.files[name] = clicked(administrator, words, folder / name)
    found.dialogs, found.complaints = seen.dialogs, seen.complaints
    found.strangers = seen.strangers(administrator.gateway.url)
    return found


def clicked(administrator: Administrator, words: str, kept: Path) -> File:
    """What comes of a link whose words are exactly these."""
    link = administrator.page.get_by_role("link", name=words, exact=True)
    with administrator.page.expect_response("**/*format=*") as answer, administrator.page.expect_download() as begun:
        link.click()
    begun.value.save_as(kept)
    return File(begun.value.suggested_filename, answer.value.headers, kept.read_bytes())


def test_the_pages_show_every_text_and_run_nothing(home: TakenHome) -> None:
    shown = [kept_of(case)[:LONGEST_SHOWN] for case in EVERY]
    assert [text for text in shown if text not in home.words["batches"]] == []
    named = [cell_of(case) for case in EVERY if can_name(cell_of(case))]
    assert len(named) >= 14
    assert [cell for cell in named if cell not in home.words["usage"]] == []
    assert (home.dialogs, home.live, home.complaints, home.strangers) == ([], [], [], set())


def test_each_file_is_named_and_typed_as_what_it_is_and_never_shown_in_the_browser(home: TakenHome) -> None:
    for name, file in home.files.items():
        form = name.rpartition(".")[2]
        assert re.fullmatch(rf"[A-Za-z0-9_-]+\.{form}", file.name)
        assert file.headers["content-disposition"] == f'attachment; filename="{file.name}"'
        assert file.headers["content-type"] == KINDS[form]
        assert file.headers["x-content-type-options"] == "nosniff"
        assert "no-store" in file.headers["cache-control"]


@pytest.mark.parametrize("case", of("csv"))
def test_a_file_that_was_clicked_starts_no_formula_and_loses_nothing(case: dict[str, Any], home: TakenHome) -> None:
    """In the results' table, which is lawful CSV, in their JSON lines, which keep the text as it was, and, where it can
    name a token, in the usage as a table and as a workbook (`cells` refuses one with a formula)."""
    cell, place = cell_of(case), EVERY.index(case)
    neutral = neutral_of(case)
    row = home.table("results.csv")[place]
    assert row["text"] == neutral
    line = json.loads(home.files["results.jsonl"].body.splitlines()[place])
    assert line["text"] == kept_of(case)
    if can_name(cell):
        assert row["custom_id"] == neutral
        assert line["custom_id"] == cell
        assert neutral in {one["token_name"] for one in home.table("usage.csv")}
        assert ("text", cell) in [found for one in cells(home.files["usage.xlsx"].body) for found in one]


def test_no_cell_of_any_table_begins_as_a_formula_does_and_numbers_are_numbers(home: TakenHome) -> None:
    for name in ("results.csv", "usage.csv"):
        table = home.table(name)
        assert NUMBERS & table[0].keys()
        for column, value in (pair for row in table for pair in row.items()):
            if column in NUMBERS:
                float(value)
            else:
                assert not STARTS_A_FORMULA.match(value), (name, column, value)
    kinds = {kind for row in cells(home.files["usage.xlsx"].body)[1:] for kind, _ in row}
    assert kinds - {None} == {"text", "number"}
