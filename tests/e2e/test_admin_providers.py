"""Providers, models, keys and routes at the administrators' pages, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import provider_environment
from tests.e2e import servers
from tests.e2e.administrators import LOOKS, PAYLOAD, Administrator, gateway_with_administrators, signed_in
from tests.upstream import RemoteUpstream, faults

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PAGES = (
    "providers", "providers/~new", "providers/~compatible", "providers/~new/azure_openai", "providers/openai",
    "providers/own", "routes", "routes/~new", "routes/house", "routes/~aliases", "routes/~who?name=large",
    "providers/openai/models",    "providers/own/~model", "providers/gemini/models/gemini-2.5-pro",
)  # fmt: skip


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, remote_simulator: RemoteUpstream, browser: Any
) -> Iterator[servers.Gateway]:
    """With a provider of an administrator's own, made as one makes it, of which hostile words are told."""
    folder = tmp_path_factory.mktemp("providers")
    environment = provider_environment(remote_simulator, "openai", "anthropic", "gemini")
    with gateway_with_administrators(folder, "root", "ann", **environment) as running:
        with signed_in(running, browser) as administrator:
            makes_a_provider(administrator, remote_simulator)
            makes_a_route(administrator)
        yield running


def makes_a_provider(root: Administrator, upstream: RemoteUpstream) -> None:
    root.goes("providers")
    root.page.click("text=New provider")
    root.page.click("text=A server that speaks OpenAI's wire")
    root.page.fill("#f-provider_id", "own")
    root.page.fill("#f-display_name", "Our own servers")
    root.page.fill("#f-param-api_base", "ftp://nowhere")
    root.page.fill("#f-description", PAYLOAD)
    root.page.fill("#f-models", "llama-7b-instruct\nmeta-llama/Llama-3.3-70B")
    root.page.click("text=Make the provider")
    assert "http://" in root.page.locator("#e-param-api_base").inner_text()
    root.page.fill("#f-param-api_base", upstream.llama_base)
    root.page.click("text=Make the provider")
    root.page.wait_for_selector("h1:has-text('Our own servers')")


def makes_a_route(root: Administrator) -> None:
    root.goes("routes")
    root.page.click("text=New route")
    root.page.fill("#f-name", "house")
    root.page.select_option("#f-strategy", "weighted")
    root.page.fill("#f-targets", "openai/gpt-4o 3\nnobody/nothing")
    root.page.fill("#f-context_window", "gemini/gemini-2.5-pro")
    root.page.click("text=Make the route")
    assert "Line 2 is no model" in root.page.locator("#e-targets").inner_text()
    root.page.fill("#f-targets", "openai/gpt-4o 3\nanthropic/claude-haiku-4-5 1\ngrok/grok-4 1")
    root.page.click("text=Make the route")
    root.page.wait_for_selector("h1:has-text('house')")


@pytest.fixture
def root(gateway: servers.Gateway, browser: Any) -> Iterator[Administrator]:
    with signed_in(gateway, browser) as administrator:
        yield administrator


@pytest.mark.parametrize("look", LOOKS)
def test_every_page_is_sound(gateway: servers.Gateway, browser: Any, look: dict[str, Any]) -> None:
    with signed_in(gateway, browser, "ann", **look) as administrator:
        administrator.finds_all_sound(PAGES)


def test_a_provider_is_tried_out_in_place_and_its_words_are_told(root: Administrator, upstream: RemoteUpstream) -> None:
    root.goes("providers/openai")
    root.page.click("#check button")
    root.page.wait_for_selector("#check .notice.good:has-text('It works')")
    assert " s" in root.page.locator("#check .notice").inner_text()
    upstream.script(faults.status(401), vendor="openai", times=1)
    root.page.click("#check button")
    root.page.wait_for_selector("#check .notice.bad:has-text('does not accept the key')")
    root.page.reload()
    root.page.wait_for_selector(".state:has-text('put aside')")
    root.finds_it_sound("provider-key-aside")
    root.page.click("text=Put back")
    root.page.wait_for_selector("td .state:has-text('in use')")


def test_keys_come_and_go_behind_masks_and_a_provider_is_switched(root: Administrator) -> None:
    root.goes("providers/own")
    for ending in ("1111", "2222"):
        root.page.fill("#f-key_value", f"sk-of-a-browser-0123456789-{ending}")
        root.page.click("text=Add the key")
        root.page.wait_for_selector(f"td code:has-text('••••{ending}')")
    root.finds_it_sound("provider-keys")
    root.page.click("[aria-label='Remove the key ••••1111']")
    root.page.wait_for_selector("td code:has-text('••••1111')", state="detached")
    assert root.seen.dialogs == ["Remove the key ••••1111?"]
    assert "sk-of-a-browser" not in root.page.content()
    root.page.click("text=Switch off")
    root.page.wait_for_selector(".notice:has-text('It is switched off here')")
    root.page.click("text=Switch on")
    root.page.wait_for_selector(".state.good:has-text('on')")


def test_a_model_is_added_priced_from_a_day_on_and_switched_off(root: Administrator) -> None:
    root.goes("providers/own")
    root.page.click("text=Add a model")
    root.page.fill("#f-model_id", "mixtral/8x7b")
    root.page.fill("#f-context_window", "many")
    root.page.click("main button:has-text('Add the model')")
    assert "whole number" in root.page.locator("#e-context_window").inner_text()
    root.page.fill("#f-context_window", "32768")
    root.page.check("input[value=tools]")
    root.page.click("main button:has-text('Add the model')")
    root.page.wait_for_selector("h1:has-text('mixtral/8x7b')")
    for begins, rate in (("", "0.5"), ("2099-01-01", "0.25")):
        root.page.select_option("#f-source", "own")
        root.page.fill("#f-inputValue", rate)
        root.page.fill("#f-outputValue", "1")
        root.page.fill("#f-begins", begins)
        root.page.click("text=Set the price")
        root.page.wait_for_selector(f"#rows td.number:has-text('{rate}')")
    assert root.page.locator("#rows tr").first.inner_text().split()[0] == "2099-01-01"
    assert root.page.locator("#rows tr:has-text('in force') td.number").first.inner_text() == "0.5"
    root.finds_it_sound("model-priced", refused=True)
    root.goes("providers/own/models?limit=2")
    root.page.click("#more a")
    root.page.wait_for_selector("#rows tr:nth-child(3)")
    root.page.click("[aria-label='Switch mixtral/8x7b off']")
    root.page.wait_for_selector("[aria-label='Switch mixtral/8x7b on']")


def test_anything_compatible_is_added_in_one_step(root: Administrator, upstream: RemoteUpstream) -> None:
    root.goes("providers")
    root.page.click("text=Add anything OpenAI-compatible")
    root.page.fill("#f-api_base", upstream.openai_base)
    root.page.click("text=Look what is there")
    assert "asks for a key" in root.page.locator("#e-api_key").inner_text()
    root.finds_it_sound("compatible-refused", refused=True)
    root.page.fill("#f-api_key", upstream.keys["openai"])
    root.page.click("text=Look what is there")
    root.page.wait_for_selector("#found")
    assert root.page.locator(".verdicts .state.good").count() == 5
    root.finds_it_sound("compatible-found", refused=True)
    root.page.uncheck("input[name=models][value=gpt-5]")
    root.page.fill("#f-provider_id", "one-step")
    root.page.click("text=Add the provider and its models")
    root.page.wait_for_selector("h1:has-text('one-step')")
    assert root.page.locator("a code:has-text('gpt-5')").count() == 0
    root.page.click("#check button")
    root.page.wait_for_selector("#check .notice.good")


def test_who_would_answer_is_drawn_for_any_name_with_what_is_wrong_just_now(
    root: Administrator, upstream: RemoteUpstream
) -> None:
    upstream.script(faults.status(500), vendor="anthropic", times=5)
    root.goes("providers/anthropic")
    for _ in range(5):
        root.page.click("#check button")
        root.page.wait_for_selector("#check .notice.bad")
        root.page.reload()
    root.goes("routes")
    root.page.fill("#f-name", "house")
    root.page.keyboard.press("Enter")
    root.page.wait_for_selector("h1:has-text('Who answers to house')")
    steps = root.page.locator("ol.chain").first.locator("li").all_inner_texts()
    assert ["gpt-4o" in steps[0], "first in 100% of calls" in steps[0], "breaker open" in steps[1]] == [True] * 3
    assert "Its provider is off" in root.page.locator(".passed").inner_text()
    root.finds_it_sound("route-drawn")
    root.page.fill("#f-name", PAYLOAD)
    root.page.keyboard.press("Enter")
    root.page.wait_for_selector(".notice.bad:has-text('Nobody')")
    root.finds_it_sound("route-nobody")
    root.goes("routes/house")
    root.page.select_option("#f-strategy", "cheapest")
    root.page.click("text=Save")
    root.page.wait_for_selector("ol.chain:has-text('1,000 tokens in')")
    root.page.click("text=Delete the route")
    root.page.wait_for_selector("h1:has-text('Routes')")
    assert (root.page.locator("td:has-text('house')").count(), len(root.seen.dialogs)) == (0, 1)
