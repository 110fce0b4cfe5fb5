"""The playground in a real browser: streamed, side by side, stopped, failing, by the keyboard, and as code."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import provider_environment
from tests.e2e import servers
from tests.e2e.administrators import LOOKS, PAYLOAD, Administrator, gateway_with_administrators, signed_in
from tests.upstream import RemoteUpstream, faults

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

POEM = "One after the other the words arrive, and nobody waits for the last of them before the first is read."
LOCAL = "llama-7b-instruct"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, remote_simulator: RemoteUpstream) -> Iterator[servers.Gateway]:
    environment = provider_environment(remote_simulator, "openai", "llama")
    with gateway_with_administrators(tmp_path_factory.mktemp("playground"), "root", "ann", **environment) as running:
        yield running


@pytest.fixture
def root(gateway: servers.Gateway, browser: Any, upstream: RemoteUpstream) -> Iterator[Administrator]:
    with signed_in(gateway, browser) as administrator:
        administrator.goes("playground")
        administrator.page.select_option("#f-model", "gpt-4o")
        yield administrator


def says(administrator: Administrator, text: str) -> None:
    administrator.page.fill("#f-message", text)
    administrator.page.click("#send")


def answered(administrator: Administrator, pane: int = 0) -> Any:
    """Waits for the end of the last answer in this column; gives the turn."""
    administrator.page.wait_for_selector("#stop", state="hidden")
    return administrator.page.locator(f"#pane-{pane} .turn.assistant").last


def complaints(administrator: Administrator) -> list[str]:
    """Without what the browser itself tells of a status that is no success."""
    return [one for one in administrator.seen.complaints if "Failed to load resource" not in one]


def test_an_answer_appears_bit_by_bit_and_the_chat_goes_on(root: Administrator, upstream: RemoteUpstream) -> None:
    upstream.script(faults.text(POEM) + faults.pace(60), times=1)
    root.page.evaluate(
        """() => {
            window.lengths = [];
            const box = document.querySelector("#pane-0 .turns");
            new MutationObserver(() => {
                const words = box.querySelector(".turn.assistant .words");
                if (words) window.lengths.push(words.textContent.length);
            }).observe(box, {childList: true, subtree: true, characterData: true});
        }"""
    )
    says(root, "Hello")
    turn = answered(root)
    assert turn.locator(".words").inner_text() == POEM
    lengths = list(dict.fromkeys(root.page.evaluate("window.lengths")))
    assert len(lengths) > 5
    assert all(before < after for before, after in itertools.pairwise(lengths))
    figures = turn.locator(".figures").inner_text()
    for part in ("openai/gpt-4o", "first token", "s in all", "tokens in", "$0.0"):
        assert part in figures
    assert POEM in root.page.locator("#announced").inner_text()
    assert root.page.locator("#announced p").count() == 2  # what is asked, what was answered; not each word
    assert root.page.evaluate("document.activeElement.id") != "stop"
    says(root, "And then?")
    answered(root)
    asked = [one["role"] for one in upstream.requests[-1].body["messages"]]
    assert asked == ["user", "assistant", "user"]
    root.finds_it_sound("playground-answered")


def test_two_models_answer_side_by_side_each_with_its_time_and_cost(
    root: Administrator, upstream: RemoteUpstream
) -> None:
    upstream.script(faults.text("I am the first."), vendor="openai")
    upstream.script(faults.text(PAYLOAD), vendor="llama")
    root.page.select_option("#f-second", LOCAL)
    says(root, "Who are you?")
    first, second = answered(root), answered(root, 1)
    assert first.locator(".words").inner_text() == "I am the first."
    assert second.locator(".words").inner_text() == PAYLOAD
    assert second.locator(".words *").count() == 0
    for turn in (first, second):
        assert "first token" in turn.locator(".figures").inner_text()
    assert "$" in first.locator(".figures").inner_text()
    root.finds_it_sound("playground-two")
    assert root.seen.dialogs == []


def test_an_answer_is_stopped_and_what_came_stays(root: Administrator, upstream: RemoteUpstream) -> None:
    upstream.script(faults.text(POEM) + faults.gap(4, 30), times=1)
    says(root, "Hello")
    root.seen.eventually("document.querySelector('#pane-0 .turn.assistant .words')?.textContent.length > 3")
    root.page.click("#stop")
    turn = answered(root)
    assert "Stopped." in turn.locator(".fault").inner_text()
    assert POEM.startswith(turn.locator(".words").inner_text().strip())
    assert root.page.evaluate("document.activeElement.id") == "f-message"
    assert complaints(root) == []


def test_the_keyboard_alone_sends_and_stops(root: Administrator, upstream: RemoteUpstream) -> None:
    upstream.script(faults.text(POEM) + faults.gap(4, 30), times=1)
    root.page.focus("#f-message")
    root.page.keyboard.type("Hello")
    root.page.keyboard.press("Control+Enter")
    root.seen.eventually("document.querySelector('#pane-0 .turn.assistant .words')?.textContent.length > 3")
    root.page.keyboard.press("Escape")
    assert "Stopped." in answered(root).locator(".fault").inner_text()
    assert root.page.evaluate("document.activeElement.id") == "f-message"


def test_what_goes_wrong_is_told_in_place(root: Administrator, upstream: RemoteUpstream) -> None:
    upstream.script(faults.status(400, message="No such thing."), times=1)
    says(root, "kept words")
    assert answered(root).locator(".fault").inner_text() != ""
    assert root.page.locator("#f-message").input_value() == "kept words"
    upstream.script(faults.text(POEM) + faults.error_mid_stream(5), times=1)
    root.page.click("#send")
    broken = answered(root)
    assert broken.locator(".words").inner_text() != ""
    assert broken.locator(".fault").inner_text() != ""
    root.page.click("summary")
    root.page.fill("#f-temperature", "hot")
    says(root, "Hello")
    assert "temperature" in answered(root).locator(".fault").inner_text()
    root.page.fill("#f-temperature", "")
    root.page.context.set_offline(True)
    says(root, "Hello")
    assert answered(root).locator(".fault").inner_text() == "The gateway cannot be reached."
    root.page.context.set_offline(False)
    root.page.context.clear_cookies()
    says(root, "Hello")
    assert "sign-in has ended" in answered(root).locator(".fault").inner_text()
    assert complaints(root) == []


def test_the_chat_is_copied_as_code_that_holds_no_token(root: Administrator) -> None:
    says(root, "Hello")
    answered(root)
    root.page.fill("#f-message", 'It\'s "this"')
    root.page.click("text=Show as code")
    root.page.wait_for_selector("#code h2")
    assert root.page.evaluate("document.activeElement.textContent") == "As code"
    root.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    root.page.click("[data-copy=s-curl]")
    root.page.wait_for_selector("#code :text('Copied')")
    copied = root.page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith(f"curl {root.gateway.url}/v1/chat/completions")
    assert "YOUR_TOKEN" in copied
    assert "fl_" not in copied
    root.finds_it_sound("playground-code")


def test_without_javascript_the_form_gives_a_whole_answer(
    gateway: servers.Gateway, browser: Any, upstream: RemoteUpstream
) -> None:
    upstream.script(faults.text(PAYLOAD))
    with signed_in(gateway, browser, "ann", java_script_enabled=False) as plain:
        plain.goes("playground")
        plain.page.select_option("#f-model", "gpt-4o")
        plain.page.fill("#f-message", "Hello")
        plain.page.click("#send")
        assert plain.page.locator("#pane-0 .turn.assistant .words").inner_text() == PAYLOAD
        assert "$0.0" in plain.page.locator("#pane-0 .figures").inner_text()


@pytest.mark.parametrize("look", LOOKS)
def test_the_page_is_sound(
    gateway: servers.Gateway, browser: Any, upstream: RemoteUpstream, look: dict[str, Any]
) -> None:
    upstream.script(faults.text(POEM))
    with signed_in(gateway, browser, "ann", **look) as administrator:
        administrator.finds_all_sound(["playground"])
        administrator.page.select_option("#f-model", "gpt-4o")
        administrator.page.select_option("#f-second", LOCAL)
        says(administrator, "What do you do all day?")
        answered(administrator)
        administrator.finds_it_sound("playground-said")
