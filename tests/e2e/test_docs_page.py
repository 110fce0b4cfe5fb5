"""``/docs`` in a real browser: it draws every path, breaks no rule of its policy and asks nobody but us."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import servers
from tests.e2e.browsers import Seen, looked_at

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Gateway]:
    folder = tmp_path_factory.mktemp("docs")
    with servers.gunicorn(folder, HEIMDALL_API_PATH="/ai", HEIMDALL_API_TITLE="Gate <b>of</b> ours") as running:
        yield running


@pytest.fixture
def seen(browser: Any) -> Iterator[Seen]:
    with looked_at(browser) as found:
        yield found


def test_every_family_is_drawn_and_nothing_breaks_the_policy(gateway: servers.Gateway, seen: Seen) -> None:
    _, document, _ = gateway.get("/openapi.json")
    seen.page.goto(f"{gateway.url}/docs")
    seen.page.wait_for_selector(".opblock-tag")
    assert seen.page.locator(".opblock-tag").count() == len(document["tags"])
    assert seen.page.locator(".info .title").inner_text().startswith("FlaskLLM")
    assert seen.complaints == []
    assert seen.strangers(gateway.url) == set()


def test_an_operation_opens_and_can_be_tried(gateway: servers.Gateway, seen: Seen) -> None:
    seen.page.goto(f"{gateway.url}/docs#/Operations/opsLive")
    seen.page.locator("#operations-Operations-opsLive").wait_for()
    seen.page.locator("#operations-Operations-opsLive .try-out__btn").click()
    seen.page.locator("#operations-Operations-opsLive .execute").click()
    answer = seen.page.locator("#operations-Operations-opsLive .live-responses-table tbody .response-col_status").first
    answer.wait_for()
    assert answer.inner_text().startswith("200")
    assert seen.complaints == []
    assert seen.strangers(gateway.url) == set()


def test_the_page_takes_no_address_from_its_query(gateway: servers.Gateway, seen: Seen) -> None:
    other = f"{gateway.url}/llm-gate/none.json"
    for name in ("url", "configUrl"):
        seen.page.goto(f"{gateway.url}/docs#?{name}={other}")
        seen.page.wait_for_selector(".opblock-tag")
    assert other not in seen.asked


def test_an_inline_script_is_refused_by_the_policy(gateway: servers.Gateway, seen: Seen) -> None:
    seen.page.goto(f"{gateway.url}/docs")
    inline = "Object.assign(document.createElement('script'), {text: 'window.ran = 1'})"
    seen.page.evaluate(f"document.body.append({inline})")
    assert seen.page.evaluate("window.ran") is None
    assert any("Content Security Policy" in complaint for complaint in seen.complaints)


def test_the_gate_has_its_own_part_under_its_own_title(gateway: servers.Gateway, seen: Seen) -> None:
    seen.page.goto(f"{gateway.url}/ai/docs")
    seen.page.wait_for_selector(".opblock-tag")
    assert seen.page.title() == "Gate <b>of</b> ours"
    assert seen.page.locator(".info .title").inner_text().startswith("Gate <b>of</b> ours")
    assert seen.page.locator(".opblock-tag").count() == 1
    assert seen.complaints == []


def test_the_licences_stand_beside_the_files() -> None:
    folder = Path(__file__).parents[2] / "flaskllm" / "static" / "swagger"
    assert {path.name for path in folder.iterdir()} >= {"LICENSE", "NOTICE", "swagger-ui-bundle.js.LICENSE.txt"}
