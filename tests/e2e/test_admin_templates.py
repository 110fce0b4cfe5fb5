"""The pages of prompt templates in a real browser: writing, comparing, restoring, deleting, trying out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import provider_environment
from tests.e2e import servers
from tests.e2e.administrators import LOOKS, PAYLOAD, Administrator, gateway_with_administrators, signed_in
from tests.upstream import RemoteUpstream, faults

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

HAIKU = "templates/named/haiku"
PAGES = (
    "templates", "templates/new", HAIKU, "templates/named/keywords", f"{HAIKU}/versions",
    f"{HAIKU}/compare?from=1&to=2", "templates/try?name=haiku",
)  # fmt: skip
SYSTEM = "You are a {{ mood }} poet.\nYou write short lines.\nNobody has to count syllables."
USER = "Write about {{ topic }}.\nAnswer with the poem alone."


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, remote_simulator: RemoteUpstream) -> Iterator[servers.Gateway]:
    environment = provider_environment(remote_simulator, "openai")
    with gateway_with_administrators(tmp_path_factory.mktemp("templates"), "root", "ann", **environment) as running:
        yield running


@pytest.fixture
def root(gateway: servers.Gateway, browser: Any) -> Iterator[Administrator]:
    with signed_in(gateway, browser) as administrator:
        yield administrator


def writes(page: Any, text: str, words: str) -> None:
    """And waits for the variables: a page that is left while it asks for them complains."""
    with page.expect_response("**/templates/variables"):
        page.fill(f"#f-{text}", words)


def test_a_template_is_written_its_variables_listed_as_one_types_changed_compared_and_restored(
    root: Administrator,
) -> None:
    page = root.page
    root.goes("templates/new")
    page.fill("#f-name", "haiku")
    page.fill("#f-description", "A short poem")
    writes(page, "system_text", SYSTEM)
    page.locator("#f-user_text").press_sequentially("Write about {{ topic }}", delay=5)
    page.wait_for_selector("#variables :text('topic')")
    assert page.locator("#variables code").all_inner_texts() == ["mood", "topic"]
    assert page.evaluate("document.activeElement.id") == "f-user_text"
    page.fill("[name='default.mood']", "calm")
    writes(page, "user_text", USER)
    page.click("text=Make the template")
    page.wait_for_url(f"**/{HAIKU}")
    assert page.locator("[name='default.mood']").input_value() == "calm"
    writes(page, "system_text", SYSTEM.replace("short", "long"))
    page.click("text=Save as a new version")
    page.wait_for_selector("main :text('Version 2.')")
    page.click("main >> text=Versions")
    page.click("text=Compare the two")
    page.wait_for_selector("h1:has-text('from version 1 to 2')")
    assert page.locator("tr.gone .text").all_inner_texts() == ["You write short lines."]
    assert page.locator("tr.come .text").all_inner_texts() == ["You write long lines."]
    page.click("text=All versions")
    page.click("text=Restore version 1")
    page.wait_for_selector("main :text('Version 3.')")
    assert page.locator("#f-system_text").input_value() == SYSTEM
    assert len(root.seen.dialogs) == 1
    assert root.seen.complaints == []


def test_a_draft_is_tried_on_a_model_and_taken_back_to_the_editor(
    root: Administrator, upstream: RemoteUpstream
) -> None:
    page = root.page
    upstream.script(faults.text('["hiring", "costs"]'), times=1)
    upstream.script(faults.text(PAYLOAD), times=1)
    root.goes("templates/named/keywords")
    writes(page, "user_text", "In short: {{ text }}")
    page.click("text=Try it out unsaved")
    page.fill("[name='variables.text']", "We hire less.")
    page.fill("#f-on_model", "gpt-4o")
    page.click("text=Ask the model")
    page.wait_for_selector("h2:has-text('Typed output')")
    assert upstream.requests[-1].body["messages"][-1]["content"] == "In short: We hire less."
    assert "$0.0" in page.locator("dl.facts").inner_text()
    root.finds_it_sound("template-tried")
    page.click("text=Ask the model")
    page.wait_for_selector("text=It cannot be read as keywords")
    assert page.locator("[aria-label=Answer]").inner_text() == PAYLOAD
    root.finds_it_sound("template-tried-with-payload")
    page.click("text=Back to the editor")
    page.wait_for_selector("h1:has-text('keywords')")
    assert page.locator("#f-user_text").input_value() == "In short: {{ text }}"
    assert root.seen.dialogs == []


def test_a_template_is_deleted_after_a_question(root: Administrator) -> None:
    root.goes("templates/new")
    root.page.fill("#f-name", "short-lived")
    writes(root.page, "user_text", PAYLOAD)
    root.page.click("text=Make the template")
    root.page.wait_for_url("**/short-lived")
    root.page.click("button.danger")
    root.page.wait_for_selector("text=The template has been deleted")
    assert len(root.seen.dialogs) == 1
    root.goes("templates")
    assert "short-lived" not in root.page.content()


def test_without_javascript_everything_works_too(gateway: servers.Gateway, browser: Any) -> None:
    with signed_in(gateway, browser, "ann", java_script_enabled=False) as plain:
        page = plain.page
        plain.goes("templates/new")
        page.fill("#f-name", "plain")
        page.fill("#f-user_text", "Say {{ word }}")
        page.click("text=Make the template")
        page.wait_for_url("**/plain")
        assert page.locator("#variables code").all_inner_texts() == ["word"]
        page.click("text=Try it out >> nth=0")
        page.fill("[name='variables.word']", "hello")
        page.click("text=Ask the model")
        page.wait_for_selector("h2:has-text('Answer')")


@pytest.mark.parametrize("look", LOOKS)
def test_every_page_is_sound(gateway: servers.Gateway, browser: Any, look: dict[str, Any]) -> None:
    """After the others of this file: `haiku` has versions by then."""
    with signed_in(gateway, browser, "ann", **look) as administrator:
        administrator.finds_all_sound(PAGES)
