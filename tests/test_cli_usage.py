"""``flask usage export`` and ``flask usage reconcile``, with the exports of `tests/exports`."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from flask import Flask
from sqlalchemy import text as sql

from flaskllm.extensions import Base, db
from flaskllm.repositories.ledger import ID_SHIFT
from flaskllm.wiring import prepare_database
from tests.actors import Caller
from tests.conftest import MakeApp, provider_environment
from tests.databases import MISSING, database_of_its_own
from tests.upstream import Upstream
from tests.wire.test_xlsx import cells

EXPORTS = Path(__file__).parent / "exports"
NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
Run = Callable[..., Result]


def breakdown(*parts: tuple[str, int, int]) -> str:
    """Tokens of each bucket, and dollars for a million of them in 10⁻⁹."""
    return json.dumps({bucket: {"tokens": tokens, "rate": rate} for bucket, tokens, rate in parts})


GPT_4O = {
    "backend_model": "gpt-4o", "prompt_tokens": 750, "completion_tokens": 150, "cost": 3_062_500,
    "usage": breakdown(("input", 500, 2_500_000_000), ("cache_read", 250, 1_250_000_000), ("output", 150, 10**10)),
}  # fmt: skip
"""One of two equal attempts; both together are what the exports say of it."""
MINI = {
    "backend_model": "gpt-4o-mini", "prompt_tokens": 40, "completion_tokens": 4, "cost": 8_400,
    "usage": breakdown(("input", 40, 150_000_000), ("output", 4, 600_000_000)),
}  # fmt: skip
HAIKU = {
    "provider": "anthropic", "backend_model": "claude-haiku-4-5", "prompt_tokens": 180, "completion_tokens": 30,
    "cost": 300_000, "usage": breakdown(
        ("input", 100, 10**9), ("cache_read", 50, 0), ("cache_write_5m", 20, 0), ("cache_write_1h", 10, 0),
        ("output", 30, 6_666_666_667),
    ),
}  # fmt: skip


def write_attempts(app: Flask, *attempts: dict[str, Any], at: datetime = NOON) -> None:
    """Attempts as the ledger writes them."""
    with app.app_context(), db.engine.begin() as connection:
        for number, attempt in enumerate(attempts):
            begun = int(at.timestamp() * 1000)
            row = {
                "id": (begun << ID_SHIFT) + number, "request_id": f"r{number}", "number": 1, "state": "settled",
                "user_id": "u", "door": "openai", "model": "m", "provider": "openai", "endpoint": "main",
                "price_version": "p", "reserved": 0, "priced": True, "holds": "[]", "estimated": False,
                "started_at": begun, "settled_at": begun, "lease_until": begun, **attempt,
            }  # fmt: skip
            connection.execute(Base.metadata.tables["attempts"].insert(), row)


def runner(app: Flask) -> Run:
    def run(*arguments: str | Path) -> Result:
        return app.test_cli_runner().invoke(args=["usage", *map(str, arguments)])

    return run


@pytest.fixture
def run(app: Flask) -> Run:
    return runner(app)


@pytest.fixture(params=["sqlite", "postgresql"])
def booked(request: pytest.FixtureRequest, make_app: MakeApp) -> Flask:
    """A gateway, on this database, whose ledger has what the exports say."""
    if request.param == "sqlite":
        app = make_app()
    else:
        address = database_of_its_own()
        if address is None:
            pytest.skip(MISSING)
        app = make_app(DATABASE_URL=address)
        prepare_database(app)
    write_attempts(app, GPT_4O, GPT_4O, MINI, HAIKU, {**MINI, "state": "released", "cost": 0, "usage": "{}"})
    return app


def told(result: Result, code: int) -> Any:
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


# -- reconcile --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "files",
    [
        ("openai_usage.csv",), ("openai_usage.json",), ("openai_costs.csv",), ("openai_costs.json",),
        ("openai_usage.csv", "openai_costs.csv"), ("openai_usage.json", "openai_costs.json"),
        ("anthropic_usage.csv",), ("anthropic_usage.json",),
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_ledger_that_is_the_bill_has_no_difference(booked: Flask, files: tuple[str, ...]) -> None:
    found = told(runner(booked)("reconcile", *(EXPORTS / name for name in files), "--json"), 0)
    assert (found["agrees"], found["differences"]) == (True, [])
    assert found["attempts"] == (3 if "openai" in files[0] else 1)


@pytest.mark.parametrize("name", ["anthropic_costs.csv", "anthropic_costs.json"])
def test_what_a_provider_bills_besides_tokens_is_a_difference_of_its_own(booked: Flask, name: str) -> None:
    (difference,) = told(runner(booked)("reconcile", EXPORTS / name, "--json"), 1)["differences"]
    assert (difference["model"], difference["item"], difference["only_in"]) == (None, "web_search", "export")
    assert difference["fields"] == {"cost": {"ledger": None, "export": 0.01, "difference": -0.01}}


@pytest.mark.parametrize("name", ["anthropic_costs.csv", "anthropic_costs.json"])
def test_searches_that_the_ledger_has_are_held_against_those_of_the_bill(app: Flask, run: Run, name: str) -> None:
    parts = json.loads(str(HAIKU["usage"])) | {"web_searches": {"tokens": 1, "rate": 10**13}}
    write_attempts(app, {**HAIKU, "cost": 10_300_000, "usage": json.dumps(parts)})
    assert told(run("reconcile", EXPORTS / name, "--json"), 0)["differences"] == []
    write_attempts(app, {**HAIKU, "cost": 10_300_000, "usage": json.dumps(parts)}, at=NOON.replace(hour=13))
    first, second = told(run("reconcile", EXPORTS / name, "--json"), 1)["differences"]
    assert (first["fields"]["cost"]["difference"], second["fields"]["cost"]["difference"]) == (0.0003, 0.01)
    assert second["item"] == "web_search"


def test_each_difference_is_listed_with_both_sides_and_what_explains_it(app: Flask, run: Run) -> None:
    estimated = {**GPT_4O, "completion_tokens": 140, "estimated": True}
    write_attempts(app, GPT_4O, estimated)
    write_attempts(app, {**MINI, "backend_model": "o3"}, at=datetime(2026, 11, 2, 23, 59, tzinfo=UTC))
    write_attempts(app, MINI, at=datetime(2026, 11, 3, tzinfo=UTC))  # after the export's last day
    found = told(run("reconcile", EXPORTS / "openai_usage.csv", "--json"), 1)
    assert (found["from"], found["to"], found["agrees"]) == ("2026-11-01", "2026-11-02", False)
    first, second, third = found["differences"]
    assert (first["model"], first["only_in"], first["estimated"]) == ("gpt-4o", None, 1)
    assert first["fields"] == {"completion_tokens": {"ledger": 290, "export": 300, "difference": -10}}
    assert (second["model"], second["only_in"]) == ("gpt-4o-mini-2024-07-18", "export")
    assert (third["day"], third["model"], third["only_in"]) == ("2026-11-02", "o3", "ledger")
    lines = run("reconcile", EXPORTS / "openai_usage.csv").stdout.splitlines()
    assert lines[0].split() == [
        *["2026-11-01", "gpt-4o", "completion_tokens", "ledger", "290,", "export", "300,", "-10"], *["(1", "estimated)"]
    ]  # fmt: skip
    assert lines[-1] == "openai, 2026-11-01 to 2026-11-02: 3 attempts, 3 days and models that differ."


def test_dollars_are_compared_to_the_unit_unless_some_are_let_go(app: Flask, run: Run) -> None:
    write_attempts(app, GPT_4O, GPT_4O, {**MINI, "cost": 8_401, "priced": False})
    file = EXPORTS / "openai_costs.json"
    (difference,) = told(run("reconcile", file, "--json"), 1)["differences"]
    assert difference["fields"]["cost"]["difference"] == 1e-9
    assert run("reconcile", file, "--tolerance", "0.000000001").exit_code == 0


def test_an_interrupted_attempt_is_told_beside_its_difference(app: Flask, run: Run) -> None:
    interrupted = {"state": "interrupted", "estimated": True, "cost": 7, "usage": None, "backend_model": "gpt-4o-mini"}
    write_attempts(app, GPT_4O, GPT_4O, {**interrupted, "prompt_tokens": 0, "completion_tokens": 0})
    (difference,) = told(run("reconcile", EXPORTS / "openai_usage.json", "--json"), 1)["differences"]
    assert (difference["model"], difference["interrupted"], difference["estimated"]) == ("gpt-4o-mini", 1, 1)


def test_a_row_that_somebody_has_been_at_is_found(booked: Flask) -> None:
    with booked.app_context(), db.engine.begin() as connection:
        attempts = Base.metadata.tables["attempts"]
        connection.execute(attempts.update().where(attempts.c.backend_model == "gpt-4o-mini").values(cost=8_399))
    found = told(runner(booked)("reconcile", EXPORTS / "openai_usage.csv", "--json"), 1)
    assert (found["differences"], len(found["unsound_attempts"])) == ([], 1)


def test_days_and_providers_can_be_chosen(app: Flask, run: Run) -> None:
    write_attempts(app, {**GPT_4O, "provider": "mine"})
    file = EXPORTS / "openai_usage.csv"
    assert told(run("reconcile", file, "--from", "2026-11-02", "--json"), 0)["from"] == "2026-11-02"
    for wrong, words in (
        (("--from", "2026-11-05"), "leaves no day of the export"),
        (("--provider", "nobody"), "'nobody' is none"),
        (("--from", "soon"), "a day such as"),
        (("--tolerance", "-1"), "no amount of dollars"),
    ):
        result = run("reconcile", file, *wrong)
        assert (result.exit_code != 0, words in result.output) == (True, True), result.output


def changed(name: str, old: str, new: str) -> bytes:
    text = (EXPORTS / name).read_text(encoding="utf-8")
    assert old in text
    return text.replace(old, new, 1).encode()


BROKEN = [
    (changed("openai_usage.csv", "service_tier", "surprise"), "line 1, column surprise: is unknown"),
    (changed("openai_usage.csv", "service_tier", "batch"), "line 1, column batch: stands more than once"),
    (changed("openai_usage.csv", ",1500,", ",many,"), "line 2, column input_tokens: must be a whole number, not"),
    (changed("openai_usage.csv", ",1500,", ",-1,"), "line 2, column input_tokens: must be a whole number"),
    (changed("openai_usage.csv", ",1500,", ",1500,1,"), "line 2: has 1 cells too many"),
    (changed("openai_usage.csv", "gpt-4o-mini-2024-07-18", ""), "line 3, column model: names no model"),
    (changed("openai_usage.csv", "1793577600,2026", "1799577600,2026"), "line 2, column end_time: makes a bucket"),
    (changed("openai_usage.csv", "1793491200,", "99999999999999,"), "line 2, column "),
    (changed("openai_costs.csv", "0.00312500,usd", "0.00312500,eur"), "line 2, column amount_currency: must be usd"),
    (changed("openai_costs.csv", "0.00312500", "NaN"), "line 2, column amount_value: must be an amount, not 'NaN'"),
    (changed("anthropic_usage.csv", "2026-11-01", "11/01/2026"), "line 2, column usage_date_utc: must be a day"),
    (changed("anthropic_costs.csv", "0.0001,", "1e99,"), "line 2, column cost_usd: must be an amount"),
    (b"a,b\n1,2\n", "line 1: has the columns of no export that is known"),
    (b"", "line 1: has the columns of no export"),
    (b"start_time,model\n\xff", "line 2: is not UTF-8"),
    (b'usage_date_utc,"mod', "line 1: is no CSV"),
    (changed("openai_usage.json", '"object": "page",', '"object": "page"'), "line 3, column 3: is no JSON"),
    (changed("openai_usage.json", "1500", '"lots"'), "data[0].results[0].input_tokens: must be a whole number"),
    (changed("openai_usage.json", '"gpt-4o-2024-08-06"', "null"), "data[0].results[0].model: names no model"),
    (changed("openai_usage.json", "completions.result", "images.result"), "data[0].results[0].object: must be"),
    (changed("openai_usage.json", "false", "true"), "is not the last page"),
    (changed("openai_costs.json", '"usd"', '"gbp"'), "data[0].results[0].amount.currency: must be usd"),
    (changed("openai_costs.json", "0.0061334", "[]"), "data[0].results[0].amount.value: must be an amount"),
    (changed("anthropic_usage.json", "2026-11-01T00:00:00Z", "yesterday"), "data[0].starting_at: must be a day"),
    (changed("anthropic_usage.json", '5m_input_tokens": 20', '5m_input_tokens": 2.5'), "5m_input_tokens: must"),
    (b'{"data": 5}', "data: must be a list"),
    (b'{"data": []}', "has no rows"),
    (b"[" * 100_000, "export.txt"),
    (b'{"data": ' + b"9" * 5000 + b"}", "a number that is none"),
]  # fmt: skip


@pytest.mark.parametrize("raw, words", BROKEN, ids=[words[:40] for _, words in BROKEN])
def test_a_file_that_cannot_be_read_is_refused_at_its_place(run: Run, tmp_path: Path, raw: bytes, words: str) -> None:
    file = tmp_path / "export.txt"
    file.write_bytes(raw)
    result = run("reconcile", file)
    assert (result.exit_code, "Traceback" in result.output) == (1, False)
    assert words in result.stderr
    assert "export.txt" in result.stderr


def test_pages_of_one_kind_are_read_together(booked: Flask, tmp_path: Path) -> None:
    page = json.loads((EXPORTS / "openai_usage.json").read_text())
    first = {**page, "data": page["data"][:1], "has_more": True}
    second = {**page, "data": page["data"][1:]}
    (tmp_path / "pages.json").write_text(json.dumps([first, second]))
    assert runner(booked)("reconcile", tmp_path / "pages.json").exit_code == 0


def test_files_of_two_providers_are_not_mixed_and_a_missing_one_is_told(run: Run) -> None:
    mixed = run("reconcile", EXPORTS / "openai_usage.csv", EXPORTS / "anthropic_usage.csv")
    missing = run("reconcile", "nowhere.csv")
    assert ("several providers" in mixed.output, "nowhere.csv: No such file" in missing.output) == (True, True)


def test_the_bill_of_the_simulator_is_the_ledger(make_app: MakeApp, upstream: Upstream, tmp_path: Path) -> None:
    """Real calls, plain and streamed; what the provider counted is written as its own export."""
    app = make_app(**provider_environment(upstream, "openai"))
    caller = Caller.on(app)
    for text in ("one", "two and three"):
        caller.chat(text, model="gpt-4o-mini")
        caller.stream(text, model="gpt-4o")
    sums: dict[str, list[int]] = {}
    with sqlite3.connect(tmp_path / "app0" / "instance" / "app.db") as connection:
        (begun,) = connection.execute("SELECT min(started_at) FROM attempts").fetchone()
    assert upstream.wait_idle(5)
    for call in upstream.bill:
        held = sums.setdefault(call.model, [0, 0])
        held[0] += call.input + call.cached + call.cache_write
        held[1] += call.output + call.reasoning
    start = begun // 86_400_000 * 86_400
    results = [
        {
            "object": "organization.usage.completions.result", "model": model, "input_tokens": taken,
            "output_tokens": given, "num_model_requests": 2,
        }
        for model, (taken, given) in sums.items()
    ]  # fmt: skip
    bucket = {"object": "bucket", "start_time": start, "end_time": start + 86_400, "results": results}
    file = tmp_path / "bill.json"
    file.write_text(json.dumps({"object": "page", "data": [bucket], "has_more": False}))
    assert told(runner(app)("reconcile", file, "--json"), 0)["attempts"] == 4
    results[0]["output_tokens"] = int(str(results[0]["output_tokens"])) + 1
    file.write_text(json.dumps({"object": "page", "data": [bucket], "has_more": False}))
    (difference,) = told(runner(app)("reconcile", file, "--json"), 1)["differences"]
    assert difference["fields"]["completion_tokens"]["difference"] == -1


# -- export -----------------------------------------------------------------------------------------------------------


def test_usage_is_exported_in_each_form(make_app: MakeApp, upstream: Upstream, tmp_path: Path) -> None:
    app = make_app(**provider_environment(upstream, "openai"))
    Caller.on(app, name="sheet").chat(model="gpt-4o-mini")
    run = runner(app)
    (row,) = csv.DictReader(io.StringIO(run("export").stdout))
    assert (row["token_name"], row["model"], row["requests"]) == ("sheet", "gpt-4o-mini", "1")
    report = told(run("export", "--format", "json", "--by", "tag,model", "--from", "2020-01-01"), 0)
    assert (report["group_by"], report["requests"]) == (["tag", "model"], 1)
    file = tmp_path / "usage.xlsx"
    assert run("export", "--format", "xlsx", "--out", file, "--to", "2020-01-01").exit_code == 0
    assert len(cells(file.read_bytes())) == 1


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("--by", "hour"), "group_by"),
        (("--from", "soon"), "from"),
        (("--format", "pdf"), "pdf"),
        (("--out", "/nowhere/at/all.csv"), "/nowhere/at/all.csv: No such file"),
    ],
)
def test_what_cannot_be_exported_is_told_plainly(run: Run, arguments: tuple[str, ...], words: str) -> None:
    result = run("export", *arguments)
    assert (result.exit_code != 0, words in result.output, "Traceback" in result.output) == (True, True, False)


def test_the_sums_are_made_anew(make_app: MakeApp, upstream: Upstream) -> None:
    app = make_app(**provider_environment(upstream, "openai"))
    Caller.on(app, name="sheet").chat(model="gpt-4o-mini")
    run = runner(app)
    assert run("rebuild").exit_code == 0
    with app.app_context(), db.engine.begin() as connection:
        assert connection.execute(sql("SELECT DISTINCT requests FROM rollups")).all() == [(1,)]
        connection.execute(sql("UPDATE rollups SET requests = 7"))
    assert json.loads(run("export", "--format", "json", "--by", "model").stdout)["requests"] == 7
    assert "anew" in run("rebuild").output
    assert json.loads(run("export", "--format", "json", "--by", "model").stdout)["requests"] == 1
