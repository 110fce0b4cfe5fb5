"""The administrators' pages in a real browser: the entrance, people, tokens and the audit trail."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e import servers
from tests.e2e.administrators import FIRST_PAGE, LOOKS, PAYLOAD, WIDTHS, Administrator, signed_in
from tests.e2e.browsers import looked_at
from tests.people import PASSWORD

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PAGES = (
    "people", "people/new", "tokens", "tokens/new", "tokens/new?workbook=1", "audit", "session", "quotas", "quotas/new",
    "quotas/new?kind=user", "quotas/one?subject=installation",
)  # fmt: skip


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Gateway]:
    with servers.gunicorn(tmp_path_factory.mktemp("admin")) as running:
        yield running


@pytest.fixture(scope="module")
def founded(gateway: servers.Gateway, browser: Any) -> servers.Gateway:
    """With its first administrator, made as a person makes it."""
    with looked_at(browser) as seen:
        administrator = Administrator(gateway, seen)
        seen.page.goto(f"{gateway.url}/admin")
        administrator.finds_it_sound("first-run")
        seen.page.fill("#f-code", gateway.flask("setup-code"))
        seen.page.fill("#f-username", "root")
        seen.page.fill("#f-email", "root@example.com")
        seen.page.fill("#f-password", PASSWORD)
        seen.page.click("main button")
        seen.page.wait_for_url(gateway.url + FIRST_PAGE)
        administrator.goes("audit")
        assert seen.page.locator("#rows tr").first.inner_text().split()[2:4] == ["root", "user.create"]
        administrator.goes("quotas/new?kind=installation")
        seen.page.fill("#f-amount_month", "250")
        seen.page.click("text=Make the quota")
        seen.page.wait_for_url("**/quotas/one?subject=installation")
    gateway.flask("users", "create", "ann", "ann@example.com", "--admin", "--password-stdin", stdin=PASSWORD)
    return gateway


@pytest.fixture
def root(founded: servers.Gateway, browser: Any) -> Iterator[Administrator]:
    with looked_at(browser) as seen:
        administrator = Administrator(founded, seen)
        administrator.signs_in()
        yield administrator


@pytest.mark.parametrize("look", LOOKS)
def test_every_page_is_sound(founded: servers.Gateway, browser: Any, look: dict[str, Any]) -> None:
    with looked_at(browser, **look) as seen:
        administrator = Administrator(founded, seen)
        administrator.goes("sign-in")
        administrator.finds_it_sound("sign-in")
        administrator.signs_in("ann")
        administrator.finds_all_sound(PAGES)


def test_a_wrong_password_is_told_and_the_keyboard_alone_gets_in(founded: servers.Gateway, browser: Any) -> None:
    with looked_at(browser) as seen:
        seen.page.goto(f"{founded.url}/admin/session")
        seen.eventually("document.activeElement.id === 'f-username'")
        seen.page.keyboard.type("root")
        seen.page.keyboard.press("Tab")
        seen.page.keyboard.type("Wrong12345")
        seen.page.keyboard.press("Enter")
        seen.page.wait_for_selector("[role=alert]")
        seen.eventually("document.activeElement.id === 'f-password'")
        seen.page.keyboard.type(PASSWORD)
        seen.page.keyboard.press("Enter")
        seen.page.wait_for_url("**/admin/session")
        seen.page.keyboard.press("Tab")
        assert seen.page.evaluate("document.activeElement.textContent") == "Skip to the content"
        seen.page.keyboard.press("Enter")
        assert seen.page.evaluate("document.activeElement.id") == "main"


def test_on_a_phone_the_pages_are_behind_a_button(founded: servers.Gateway, browser: Any) -> None:
    with looked_at(browser, viewport=WIDTHS["phone"]) as seen:
        Administrator(founded, seen).signs_in("ann")
        menu, link = seen.page.locator(".menu"), seen.page.locator("nav a:has-text('Audit')")
        assert (link.is_visible(), menu.get_attribute("aria-expanded")) == (False, "false")
        menu.press("Enter")
        assert (link.is_visible(), menu.get_attribute("aria-expanded")) == (True, "true")
        link.click()
        seen.page.wait_for_selector("h1:has-text('Audit')")
        menu.click()
        seen.page.click("text=Sign out")
        seen.page.wait_for_url("**/admin/sign-in")


def test_after_a_sign_out_the_back_button_shows_nothing(root: Administrator) -> None:
    """ADMIN-SESSION-010."""
    root.goes("audit")
    root.page.click("text=Sign out")
    root.page.wait_for_url("**/admin/sign-in")
    root.page.go_back()
    root.page.wait_for_url("**/admin/sign-in**")
    assert "user.create" not in root.page.content()


def test_signing_out_everywhere_asks_first_and_ends_the_other_browser(root: Administrator, browser: Any) -> None:
    with looked_at(browser) as seen:
        other = Administrator(root.gateway, seen)
        other.signs_in()
        root.goes("session")
        root.page.click("text=Sign out everywhere")
        root.page.wait_for_url("**/admin/sign-in")
        assert len(root.seen.dialogs) == 1
        ends = time.monotonic() + 10  # a process may remember a session for a second
        while "/sign-in" not in seen.page.url and time.monotonic() < ends:
            other.goes("audit")
        assert "/sign-in" in seen.page.url


def test_a_token_is_made_and_shown_once_and_loading_again_makes_no_second(root: Administrator) -> None:
    root.goes("tokens/new")
    root.page.fill("#f-name", PAYLOAD)
    root.page.fill("#f-user_id", "root")
    root.page.fill("#f-requests_per_minute", "none")
    root.page.click("text=Make the token")
    assert "whole number" in root.page.locator("#e-requests_per_minute").inner_text()
    assert [
        one for one in root.seen.complaints if "status of 400" not in one
    ] == []  # the browser tells of each refusal
    root.seen.complaints.clear()
    assert root.page.evaluate("document.activeElement.id") == "main"
    root.page.fill("#f-requests_per_minute", "7")
    root.page.check("input[value=chat]")
    root.page.click("text=Make the token")
    secret = root.page.locator("#token").inner_text()
    assert secret.startswith("fl_")
    root.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    root.page.click("[data-copy=token]")
    root.page.wait_for_selector("text=Copied")
    assert root.page.evaluate("navigator.clipboard.readText()") == secret
    root.finds_it_sound("token-made")
    root.page.reload()
    assert secret not in root.page.content()
    root.goes("tokens")
    rows = root.page.locator("#rows tr")
    assert (rows.count(), rows.first.locator("td").first.inner_text()) == (1, PAYLOAD)
    root.page.click("#rows a")
    root.finds_it_sound("token")
    root.page.click("form[action$=revoke] button")
    root.page.wait_for_selector(".state:has-text('revoked')")
    root.goes("audit")
    root.finds_it_sound("audit-with-payload")
    assert len(root.seen.dialogs) == 1  # our own question before the revocation


def test_an_account_is_made_and_the_list_goes_on_in_place(root: Administrator) -> None:
    for number in range(3):
        root.goes("people/new")
        root.page.fill("#f-username", f"user{number}")
        root.page.fill("#f-email", f"user{number}@example.com")
        root.page.click("text=Make the account")
        root.page.wait_for_selector(f"h1:has-text('user{number}')")
    root.finds_it_sound("person")
    root.goes("people?limit=3")
    assert root.page.locator("#rows tr").count() == 3
    root.page.click("#more a")
    root.page.wait_for_selector("#rows tr:nth-child(5)")
    assert root.page.locator("#more a").count() == 0
    assert root.page.locator("#rows tr").count() == 5


def test_a_team_is_given_a_budget_that_is_raised_and_taken_away(root: Administrator) -> None:
    page = root.page
    root.goes("quotas")
    page.click("text=New quota")
    page.click("main >> text=A tag")
    page.fill("#f-name", "team-a")
    page.fill("#f-amount_day", "five")
    page.click("text=Make the quota")
    assert page.locator("#e-amount_day").inner_text() != ""
    assert page.input_value("#f-name") == "team-a"
    page.fill("#f-amount_day", "5")
    page.select_option("#f-kind_day", "soft")
    page.click("text=Make the quota")
    page.wait_for_url("**/quotas/one?subject=tag:team-a")
    page.fill("#f-amount_day", "7.5")
    page.click("text=Save")
    page.click("text=All quotas")
    row = page.locator("#rows tr", has_text="Tag team-a")
    assert "$0.00 of $7.50 a day, soft" in row.inner_text()
    row.locator("a").click()
    page.click("text=Delete the quota")
    page.wait_for_url("**/admin/quotas")
    assert row.count() == 0
    assert root.seen.dialogs == ["Delete this quota: Tag team-a?"]


def test_without_a_script_the_server_asks_before_a_token_is_revoked(founded: servers.Gateway, browser: Any) -> None:
    with signed_in(founded, browser, "ann", java_script_enabled=False) as ann:
        ann.goes("tokens/new")
        ann.page.fill("#f-name", PAYLOAD)
        ann.page.fill("#f-user_id", "ann")
        ann.page.check("input[value=chat]")
        ann.page.click("text=Make the token")
        ann.goes("tokens")
        ann.page.locator("#rows tr", has_text="ann").get_by_role("link").first.click()
        token = ann.page.url
        for answer, comes_to, state in (("No, back", token, "live"), ("Yes", token, "revoked")):
            ann.page.click("form[action$=revoke] button")
            ann.page.wait_for_selector("h1:has-text('Are you sure?')")
            assert f"Revoke the token {PAYLOAD}?" in ann.page.locator("main").inner_text()
            ann.page.get_by_text(answer, exact=True).click()
            ann.page.wait_for_url(comes_to)
            assert ann.page.locator(".state").first.inner_text() == state
        assert (ann.seen.complaints, ann.seen.dialogs) == ([], [])


def test_the_page_that_asks_is_sound(root: Administrator) -> None:
    """A browser without scripts cannot be asked that."""
    root.goes("session")
    root.page.evaluate("document.querySelector('input[name=question]').remove()")
    root.page.click("text=Sign out everywhere")
    root.page.wait_for_selector("h1:has-text('Are you sure?')")
    root.finds_it_sound("sure")
    root.page.click("text=No, back")
    root.page.wait_for_url("**/admin/session")
    assert root.seen.dialogs == []
