"""The spreadsheet kit as its users get it: fetched from the gateway, checked by the vendors' own tools, and run.

Stand-ins are there for the workbook, Excel's two objects and Google's services alone (``spreadsheets/``); what is sent
goes over HTTP to a gateway.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV2SpecValidator

from tests.e2e import servers
from tests.e2e.environments import made_once
from tests.e2e.servers import Gateway

pytestmark = pytest.mark.e2e
HERE = Path(__file__).parent / "spreadsheets"
SCRIPTS = ("summarize-column.ts", "classify-column.ts", "translate-column.ts")
FUNCTIONS = ["ASK", "SUMMARIZE", "TRANSLATE", "CLASSIFY", "EXTRACT"]


@pytest.fixture(scope="module")
def tools() -> Path:
    """The folder with the vendors' tools, and our programs beside them."""
    if shutil.which("node") is None:
        servers.lacking("node is not installed: the spreadsheet kit cannot be tried")
    made = made_once("node-spreadsheets")
    for file in HERE.iterdir():
        shutil.copy(file, made / file.name)
    return made


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with servers.gunicorn(tmp_path_factory.mktemp("kit"), RATE_LIMIT_PER_MINUTE="10000") as running:
        yield running


@pytest.fixture(scope="module")
def kit(gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every file that the page links to, as it is served."""
    folder = tmp_path_factory.mktemp("served")
    page = fetched(gateway.url + "/excel").decode()
    names = {part.partition('"')[0] for part in page.split('href="/excel/')[1:]}
    more = {"functions.js", "functions.json", "functions.html", "taskpane.html", "taskpane.js", "taskpane.css"}
    assert {*SCRIPTS, "manifest.xml", "FlaskLLM.gs", "FlaskLLM.pq", "connector.json"} == names
    for name in names | more:
        (folder / name).write_bytes(fetched(f"{gateway.url}/excel/{name}"))
    return folder


def fetched(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read()


def told(*command: str, cwd: Path) -> Any:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


# -- what the vendors' tools say ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_office_script_is_typed_without_any_as_office_demands(script: str, tools: Path, kit: Path) -> None:
    found = told("node", "check_script.cjs", str(kit / script), "excelscript.d.ts", cwd=tools)
    assert found["version"].startswith("4.0.")
    assert found["faults"] == []


def test_the_check_finds_an_any(tools: Path, kit: Path, tmp_path: Path) -> None:
    text = (kit / SCRIPTS[0]).read_text()
    bad = tmp_path / "bad.ts"
    bad.write_text(text.replace("  await fillNextColumn", '  const odd = JSON.parse("1");\n  await fillNextColumn', 1))
    assert told("node", "check_script.cjs", str(bad), "excelscript.d.ts", cwd=tools)["faults"] == [
        "odd is of the type any"
    ]


def test_what_the_scripts_share_is_the_same_in_each(kit: Path) -> None:
    mark = "// ---- From here on the same"
    assert len({(kit / script).read_text().partition(mark)[2] for script in SCRIPTS}) == 1


def test_the_metadata_is_what_the_generator_makes_of_the_functions(tools: Path, kit: Path, tmp_path: Path) -> None:
    made = tmp_path / "functions.json"
    subprocess.run(
        ["node", "node_modules/custom-functions-metadata/cli.js", "generate", str(kit / "functions.js"), str(made)],
        cwd=tools, check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    assert json.loads(made.read_text()) == json.loads((kit / "functions.json").read_text())
    assert [one["id"] for one in json.loads(made.read_text())["functions"]] == FUNCTIONS


def test_the_manifest_is_read_back_with_this_gateways_address(tools: Path, kit: Path, gateway: Gateway) -> None:
    done = subprocess.run(
        ["node", "node_modules/office-addin-manifest/cli.js", "info", str(kit / "manifest.xml")],
        cwd=tools, check=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert f"Source Location: {gateway.url}/excel/taskpane.html" in done.stdout
    assert f"AppDomains: {gateway.url}" in done.stdout
    assert "Id: 00000000" not in done.stdout
    for line in (kit / "manifest.xml").read_text().splitlines():
        address = line.partition(f'DefaultValue="{gateway.url}')[2].partition('"')[0]
        if address:
            assert fetched(gateway.url + address)


def test_the_query_parses(tools: Path, kit: Path) -> None:
    assert told("node", "parse_query.cjs", str(kit / "FlaskLLM.pq"), cwd=tools) == {"parsed": True, "error": ""}


def test_the_connector_is_valid_and_tells_of_fields_that_are_there(kit: Path, gateway: Gateway) -> None:
    connector = json.loads((kit / "connector.json").read_text())
    OpenAPIV2SpecValidator(connector).validate()
    assert f"{connector['schemes'][0]}://{connector['host']}" == gateway.url
    document = json.loads(fetched(gateway.url + "/openapi.json"))
    for path, operations in connector["paths"].items():
        for method, operation in operations.items():
            real = document["paths"][path][method]
            answer = resolved(document, real["responses"]["200"]["content"]["application/json"]["schema"])
            hold_that_fields_exist(connector, operation["responses"]["200"]["schema"], document, answer)
            for parameter in operation["parameters"]:
                if parameter["in"] == "body":
                    body = resolved(document, real["requestBody"]["content"]["application/json"]["schema"])
                    hold_that_fields_exist(connector, parameter["schema"], document, body)


def resolved(document: Any, schema: Any) -> Any:
    """What a reference leads to; of several forms the first."""
    while "$ref" in schema or "anyOf" in schema:
        if "anyOf" in schema:
            schema = schema["anyOf"][0]
            continue
        found = document
        for name in schema["$ref"].removeprefix("#/").split("/"):
            found = found[name]
        schema = found
    return schema


def hold_that_fields_exist(connector: Any, said: Any, document: Any, real: Any) -> None:
    said, real = resolved(connector, said), resolved(document, real)
    if said.get("type") == "array":
        hold_that_fields_exist(connector, said["items"], document, real["items"])
    for name, field in said.get("properties", {}).items():
        assert name in real["properties"], name
        hold_that_fields_exist(connector, field, document, real["properties"][name])


# -- what they do ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def token(gateway: Gateway) -> str:
    """A workbook token, made by the words of the page."""
    page = fetched(gateway.url + "/excel").decode()
    words = page.partition("flask --app wsgi tokens create ")[2].partition("</code>")[0]
    name, _, options = words.replace("&#34;", '"').partition('" ')
    return gateway.flask("tokens", "create", name.strip('"'), *options.split()).strip()


def script(tools: Path, kit: Path, name: str, token: str, cells: list[Any], **fill: str) -> Any:
    """What an Office Script makes of a column."""
    given = {"address": "", "token": token, "cells": cells, "fill": fill}
    return told("node", "run_script.cjs", str(kit / name), json.dumps(given), cwd=tools)


def test_a_column_is_summed_up_beside_itself(tools: Path, kit: Path, token: str) -> None:
    cells = [f"Cell number {number % 20}" for number in range(250)]
    cells[7] = ""
    done = script(tools, kit, SCRIPTS[0], token, cells)
    assert done["error"] == ""
    assert done["answers"][7] == ""
    for cell, answer in zip(cells, done["answers"], strict=True):
        assert cell in answer
    assert len(done["lines"]) >= 2, "progress of each of the two requests"
    assert [0, "…"] in done["history"]


def test_a_wrong_token_ends_a_script_with_the_gateways_words(tools: Path, kit: Path) -> None:
    done = script(tools, kit, SCRIPTS[0], "fl_" + "0" * 49, ["a text"])
    assert "token" in done["error"].lower()
    assert "FlaskLLM: " in done["error"]


def test_an_empty_selection_is_told(tools: Path, kit: Path, token: str) -> None:
    assert "selection is empty" in script(tools, kit, SCRIPTS[1], token, ["", ""])["error"]


def test_labels_and_translations_come_from_the_gateway(tools: Path, kit: Path, token: str) -> None:
    for name in SCRIPTS[1:]:
        done = script(tools, kit, name, token, ["Where is my order?", 12, True])
        assert done["error"] == ""
        assert [bool(answer) for answer in done["answers"]] == [True, True, True]
        assert "Where is my order?" in done["answers"][0]


def test_functions_of_one_column_go_out_together(tools: Path, kit: Path, token: str) -> None:
    calls = [["SUMMARIZE", f"text {number % 5}", None] for number in range(30)]
    calls += [
        ["TRANSLATE", "Good morning", "de"],
        ["ASK", "What is this?", "a kite"],
        ["CLASSIFY", "fine", [["good", "bad"]]],
    ]
    calls += [["EXTRACT", "Order 17", "order number"], ["TRANSLATE", "Good morning", "nowhere"]]
    done = told(
        "node", "run_functions.cjs", str(kit / "functions.js"), json.dumps({"token": token, "calls": calls}), cwd=tools
    )
    assert done["ids"] == FUNCTIONS
    posts = [rows for method, rows in done["requests"] if method == "POST"]
    assert sorted(posts) == [1, 1, 3, 30]
    for call, cell in zip(calls[:30], done["cells"][:30], strict=True):
        assert call[1] in cell["text"]
    assert all("text" in cell for cell in done["cells"][:-1])
    assert done["cells"][-1]["code"] == "#N/A"
    assert "language" in done["cells"][-1]["message"]


def test_a_function_without_a_token_says_what_to_do(tools: Path, kit: Path) -> None:
    given = json.dumps({"token": "", "calls": [["ASK", "Hello", None]]})
    done = told("node", "run_functions.cjs", str(kit / "functions.js"), given, cwd=tools)
    assert "enter a workbook token" in done["cells"][0]["message"]


def test_a_google_sheet_gets_a_range_in_its_form(tools: Path, kit: Path, token: str) -> None:
    grid = [["one", ""], ["two", "one"]]
    calls = [
        ["FLASKLLM_SUMMARIZE", grid],
        ["FLASKLLM_ASK", "Say hello"],
        ["FLASKLLM_CLASSIFY", "fine", "good, bad"],
        ["FLASKLLM_TRANSLATE", "Good morning", "nowhere"],
    ]
    done = told(
        "node", "run_sheet.cjs", str(kit / "FlaskLLM.gs"), json.dumps({"token": token, "calls": calls}), cwd=tools
    )
    range_, hello, label, fault = done["results"]
    assert [[cell in range_["value"][y][x] for x, cell in enumerate(row)] for y, row in enumerate(grid)] == [
        [True] * 2
    ] * 2
    assert range_["value"][0][1] == ""
    assert "Say hello" in hello["value"]
    assert label["value"]
    assert "language" in fault["message"]
