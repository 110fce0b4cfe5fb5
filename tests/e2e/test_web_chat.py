"""The web chat of ``examples/web-chat`` in a real browser: served by the gateway, and by somebody else."""

from __future__ import annotations

import contextlib
import functools
import http.server
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import provider_environment
from tests.e2e import servers
from tests.e2e.administrators import LOOKS, PAYLOAD, Administrator
from tests.e2e.browsers import Seen, looked_at
from tests.people import NEW_PASSWORD, PASSWORD
from tests.upstream import RemoteUpstream, faults

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
EXAMPLE = servers.ROOT / "examples" / "web-chat"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Nothing of what is asked."""


@contextlib.contextmanager
def hosted(folder: Path) -> Iterator[str]:
    """A plain web server with the files of this folder; its address."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The example as somebody else has copied it: its address and its folder."""
    folder = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(EXAMPLE, folder, dirs_exist_ok=True)
    with hosted(folder) as address:
        yield address, folder


@contextlib.contextmanager
def served(folder: Path, **settings: str) -> Iterator[servers.Gateway]:
    """A gateway with the chat, where ann has an account."""
    with servers.gunicorn(folder, CHAT_PAGE="true", **settings) as running:
        account = {"username": "ann", "email": "ann@example.com", "password": PASSWORD}
        assert running.post("/api/auth/register", account)[0] == 201
        yield running


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, elsewhere: tuple[str, Path]) -> Iterator[servers.Gateway]:
    """Access tokens live as short as they may: what takes longer is done with new ones."""
    settings = {"JWT_ACCESS_TOKEN_EXPIRES": "10", "ALLOWED_ORIGINS": elsewhere[0]}
    with served(tmp_path_factory.mktemp("chat"), **settings) as running:
        yield running


@pytest.fixture
def seen(browser: Any) -> Iterator[Seen]:
    with looked_at(browser) as found:
        yield found


def opens(seen: Seen, address: str, name: str = "ann", password: str = PASSWORD) -> None:
    seen.page.goto(address)
    seen.page.fill("#f-username", name)
    seen.page.fill("#f-password", password)
    seen.page.keyboard.press("Enter")
    seen.page.wait_for_selector("h1:has-text('New conversation')")


def says(seen: Seen, words: str) -> str:
    """Say it and wait for the answer."""
    count = seen.page.locator(".assistant").count()
    seen.page.fill("#message", words)
    seen.page.keyboard.press("Enter")
    seen.page.wait_for_selector(f"[role=log][aria-busy=false] li.assistant >> nth={count}")
    answer: str = seen.page.locator(".assistant .text").last.text_content()
    return answer


@pytest.mark.parametrize("look", LOOKS)
def test_every_page_is_sound(gateway: servers.Gateway, browser: Any, look: dict[str, Any]) -> None:
    with looked_at(browser, **look) as seen:
        visitor = Administrator(gateway, seen)
        seen.page.goto(f"{gateway.url}/chat")
        seen.page.wait_for_selector("#f-username")
        visitor.finds_it_sound("chat-log-in")
        seen.page.click("text=Make one")
        visitor.finds_it_sound("chat-register")
        opens(seen, f"{gateway.url}/chat")
        visitor.finds_it_sound("chat-new")
        says(seen, "Write three lines about the sea. " * 6)
        visitor.finds_it_sound("chat-answer")
        for name, heading in (("tokens", "Your tokens"), ("usage", "Your usage"), ("account", "Your account")):
            seen.page.click(f"#nav a[href='#/{name}']")
            seen.page.wait_for_selector(f"h1:has-text('{heading}')")
            assert seen.page.evaluate("document.activeElement.tagName") == "H1"
            visitor.finds_it_sound(f"chat-{name}")


def test_somebody_registers_chats_comes_back_makes_a_token_and_leaves(gateway: servers.Gateway, seen: Seen) -> None:
    page = seen.page
    page.goto(f"{gateway.url}/chat")
    page.click("text=Make one")
    page.fill("#f-username", "bob")
    page.fill("#f-email", "bob@example.com")
    page.fill("#f-password", PASSWORD)
    page.click("text=Make the account")
    page.wait_for_selector("h1:has-text('New conversation')")
    assert says(seen, "The quick brown fox") == "[demo] The quick brown fox"
    assert page.locator(".assistant .text").evaluate("one => one.childNodes.length") > 1, "it came in pieces"
    assert says(seen, "and the dog") == "[demo] and the dog"
    page.reload()
    page.wait_for_selector("h1:has-text('The quick brown fox')")
    assert page.locator(".user .text").all_text_contents() == ["The quick brown fox", "and the dog"]
    page.wait_for_selector(".list a[aria-current=page]:has-text('The quick brown fox')")

    page.click("text=Tokens")
    page.fill("#f-name", PAYLOAD)
    page.click("text=Make the token")
    secret = page.wait_for_selector("#secret").text_content()
    assert gateway.get("/v1/models", secret)[0] == 200
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.click("text=Copy")
    page.wait_for_selector("text=Copied")
    assert page.evaluate("navigator.clipboard.readText()") == secret
    page.reload()
    page.wait_for_selector("h1:has-text('Your tokens')")
    assert secret not in page.content()
    page.click("text=Revoke")
    page.wait_for_selector("td:has-text('revoked')")
    assert page.locator("main button:has-text('Revoke')").count() == 0
    assert len(seen.dialogs) == 1

    page.click("text=Usage")
    page.wait_for_selector("h1:has-text('Your usage')")
    assert page.locator(".totals dd").first.text_content() == "2"
    assert page.locator("tbody tr").count() == 2, "today, and one model"

    stored = page.evaluate("sessionStorage.getItem('flaskllm.refresh')")
    page.click("text=Log out")
    page.wait_for_selector("h1:has-text('Log in')")
    assert gateway.post("/api/auth/refresh", {"refresh_token": stored})[0] == 401
    for _ in range(2):
        page.go_back()
        page.wait_for_selector("h1:has-text('Log in')")
        assert not {word for word in ("fox", "bob", "Your", secret) if word in page.locator("body").inner_text()}
    assert page.evaluate("Object.keys(sessionStorage).length + document.cookie.length") == 0
    assert seen.complaints == []
    assert seen.strangers(gateway.url) == set()


def test_a_conversation_is_named_anew_and_deleted(gateway: servers.Gateway, browser: Any) -> None:
    with looked_at(browser) as seen:
        opens(seen, f"{gateway.url}/chat")
        says(seen, "something to forget")
        seen.page.wait_for_selector(".list a:has-text('something to forget')")
        seen.answers = PAYLOAD
        seen.page.click("text=Rename")
        entry = seen.page.wait_for_selector(".list a[aria-current=page]:has-text('onerror')")
        assert entry.text_content() == PAYLOAD
        seen.page.click("text=Delete")
        seen.page.wait_for_selector("h1:has-text('New conversation')")
        assert seen.page.locator(".list a:has-text('onerror')").count() == 0
        assert (len(seen.dialogs), seen.complaints) == (2, [])


def test_an_answer_is_stopped_and_what_came_of_it_stays(upstream: RemoteUpstream, browser: Any, tmp_path: Path) -> None:
    openai = provider_environment(upstream, "openai")  # type: ignore[arg-type]
    with served(tmp_path, WEB_CONCURRENCY="1", **openai) as gateway, looked_at(browser) as seen:
        opens(seen, f"{gateway.url}/chat")
        upstream.script(faults.text("one two three four") + faults.gap(3, 60), times=1)
        seen.page.fill("#message", "count")
        seen.page.keyboard.press("Enter")
        seen.page.wait_for_selector(".assistant .text:has-text('one')")
        assert not seen.page.locator("text=Send").is_enabled()
        seen.page.click("text=Stop")
        seen.page.wait_for_selector(".by:has-text('Answer, broken off')")
        assert seen.page.locator(".assistant .text").text_content().startswith("one")
        upstream.script(faults.text("here I am"))
        assert says(seen, "and now something short") == "here I am"
        assert seen.complaints == []


def test_what_a_model_says_is_text_and_nothing_else(gateway: servers.Gateway, seen: Seen) -> None:
    opens(seen, f"{gateway.url}/chat")
    assert says(seen, PAYLOAD) == f"[demo] {PAYLOAD}"
    seen.page.reload()
    seen.page.wait_for_selector(f"h1:has-text({PAYLOAD[:10]!r})")
    assert seen.page.locator(".assistant .text").text_content() == f"[demo] {PAYLOAD}"
    assert seen.page.locator("main img, main script, main link").count() == 0
    assert (seen.dialogs, seen.complaints, seen.strangers(gateway.url)) == ([], [], set())


def test_an_access_token_that_is_about_to_expire_is_renewed_unseen(gateway: servers.Gateway, seen: Seen) -> None:
    opens(seen, f"{gateway.url}/chat")
    until = time.monotonic() + 30
    while not (renewed := [url for url in seen.asked if url.endswith("/refresh")]) and time.monotonic() < until:
        assert says(seen, "still there?") == "[demo] still there?"
        seen.page.wait_for_timeout(500)
    assert len(renewed) == 1
    assert says(seen, "and now?") == "[demo] and now?"
    assert seen.complaints == []


def test_a_session_that_was_ended_elsewhere_leads_to_the_entrance(gateway: servers.Gateway, browser: Any) -> None:
    account = {"username": "cleo", "email": "cleo@example.com", "password": PASSWORD}
    assert gateway.post("/api/auth/register", account)[0] == 201
    with looked_at(browser) as first, looked_at(browser) as second:
        for seen in (first, second):
            opens(seen, f"{gateway.url}/chat", "cleo")
        first.page.click("text=Account")
        first.page.fill("#f-password", NEW_PASSWORD)
        first.page.fill("#f-now", "Wrong12345")
        first.page.click("button:has-text('Change it') >> nth=1")
        assert "wrong" in first.page.locator(".fault").text_content()
        first.page.fill("#f-now", PASSWORD)
        first.page.click("button:has-text('Change it') >> nth=1")
        first.page.wait_for_selector("h1:has-text('Log in')")
        until = time.monotonic() + 10  # a process may remember a session for a second
        while second.page.locator("#f-username").count() == 0 and time.monotonic() < until:
            second.page.evaluate("location.hash = location.hash === '#/usage' ? '#/tokens' : '#/usage'")
            second.page.wait_for_timeout(300)
        assert second.page.locator("h1").text_content() == "Log in"
        assert "Your session is over" in second.page.locator("#told").text_content()


def test_what_is_refused_is_told_and_what_was_typed_is_kept(gateway: servers.Gateway, seen: Seen) -> None:
    seen.page.goto(f"{gateway.url}/chat")
    seen.page.click("text=Make one")
    seen.page.fill("#f-username", "dora")
    seen.page.fill("#f-email", "dora@example.com")
    seen.page.fill("#f-password", "weak")
    seen.page.click("text=Make the account")
    seen.page.wait_for_selector("#f-password[aria-invalid]")
    assert seen.page.input_value("#f-username") == "dora"
    seen.page.click("text=Log in")
    opens(seen, f"{gateway.url}/chat#/chat")
    seen.page.evaluate("document.getElementById('model').append(new Option('gone', 'no-such-model'))")
    seen.page.select_option("#model", "no-such-model")
    seen.page.fill("#message", "is it there?")
    seen.page.keyboard.press("Enter")
    seen.page.wait_for_selector(".talk .notice:has-text('no-such-model')")
    assert (seen.page.input_value("#message"), seen.page.locator(".log li").count()) == ("is it there?", 0)


def test_the_same_files_work_from_another_origin(
    gateway: servers.Gateway, seen: Seen, elsewhere: tuple[str, Path]
) -> None:
    address, folder = elsewhere
    config = folder / "chat" / "config.js"
    config.write_text(config.read_text().replace('GATEWAY = ""', f'GATEWAY = "{gateway.url}"'))
    opens(seen, address)
    assert says(seen, "from far away") == "[demo] from far away"
    seen.page.reload()
    seen.page.wait_for_selector("h1:has-text('from far away')")
    assert seen.complaints == []
