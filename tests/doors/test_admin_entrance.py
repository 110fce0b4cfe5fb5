"""The administrators' pages: who gets in, how long they stay, and what a form has to prove."""

from __future__ import annotations

import re
import secrets
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import update
from werkzeug.test import TestResponse

from flaskllm.blueprints import DOORS
from flaskllm.blueprints._guard import open_to_all
from flaskllm.extensions import db
from flaskllm.models.account import LoginSession
from flaskllm.models.types import now
from flaskllm.services.sessions import PAGE_IDLE, PAGE_MOST
from tests.conftest import MakeApp
from tests.doors.accounts_world import Person
from tests.doors.test_access_matrix import everything
from tests.doors.visitor import Visitor, words
from tests.people import NEW_PASSWORD, PASSWORD

OPEN = {
    ("GET", "/admin/sign-in"), ("POST", "/admin/sign-in"), ("GET", "/admin/first-run"), ("POST", "/admin/first-run"),
}  # fmt: skip
"""What needs no sign-in, each a decision."""


def pages(app: Flask) -> list[tuple[str, str]]:
    """Method and path of every page, with something in the places of ids."""
    found = [
        (method, re.sub(r"<[^>]+>", "nothing", rule.rule))
        for rule in app.url_map.iter_rules()
        if rule.endpoint.startswith("admin.")
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"})
    ]
    assert len(found) > 8
    return sorted(found)


def closed(app: Flask) -> list[tuple[str, str]]:
    return [page for page in pages(app) if page not in OPEN]


def is_led_to_the_entrance(response: TestResponse) -> bool:
    return response.status_code in (302, 303) and response.headers["Location"].startswith("/admin/sign-in")


def aged(app: Flask, **ago: timedelta) -> None:
    """Every session as it would be that much later."""
    with app.app_context():
        columns = {name: getattr(LoginSession, name) for name in ago}
        row = db.session.query(LoginSession).one()
        values = {columns[name]: getattr(row, name) - by for name, by in ago.items()}
        db.session.execute(update(LoginSession).values(values))
        db.session.commit()
    app.extensions["flaskllm"].accounts._sessions.forget()


# -- who gets in ------------------------------------------------------------------------------------------------------


def test_every_page_but_the_entrance_asks_for_a_sign_in(app: Flask) -> None:
    door = next(door for door in DOORS if door.blueprint.name == "admin")
    open_views = {
        (method, rule.rule)
        for rule in app.url_map.iter_rules()
        if rule.endpoint.startswith("admin.") and door.policy(rule.endpoint) is open_to_all
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert open_views == OPEN
    before = everything(app)
    for method, path in closed(app):
        assert is_led_to_the_entrance(app.test_client().open(path, method=method)), (method, path)
    assert everything(app) == before


def test_no_credential_of_the_api_opens_a_page(app: Flask) -> None:
    root = Person(app, "root", admin=True)
    for credential in (root.access, root.token(scopes=["admin"])[1]):
        for headers in ({"Authorization": f"Bearer {credential}"}, {"X-API-Token": credential}):
            for method, path in closed(app):
                assert is_led_to_the_entrance(app.test_client().open(path, method=method, headers=headers))
        for name in ("flaskllm-admin", "__Host-flaskllm-admin"):
            client = app.test_client()
            client.set_cookie(name, credential)
            assert is_led_to_the_entrance(client.get("/admin/audit"))


def test_the_cookie_is_no_credential_of_the_api(app: Flask) -> None:
    """Promise A12."""
    root = Visitor.admin(app)
    for path in ("/users", "/api/profile", "/v1/models", "/metrics"):
        assert root.http.get(path).status_code == 401
    assert root.http.get("/users", headers={"Authorization": f"Bearer {root.cookie}"}).status_code == 401


def test_who_is_no_administrator_is_refused_and_given_no_session(app: Flask) -> None:
    Visitor.admin(app)
    alice = Visitor(app)
    alice.services.accounts.create_user("alice", "alice@example.com", PASSWORD)
    refused = alice.sign_in("alice")
    assert (refused.status_code, alice.cookie) == (403, None)
    assert "This page is for administrators." in words(refused)


def test_who_is_demoted_is_refused_on_every_page_at_once(app: Flask) -> None:
    root, second = Visitor.admin(app), Visitor.admin(app, "second")
    token = second.token()
    user = root.services.accounts.find_user("second")
    root.services.accounts.change_user(user.id, {"role": "user"})
    before = everything(app)
    for method, path in closed(app):
        assert second.http.open(path, method=method, data={"csrf": token}).status_code == 403, (method, path)
    assert everything(app) == before


def test_a_wrong_password_an_unknown_name_and_an_empty_form_are_told_on_the_form(app: Flask) -> None:
    Visitor.admin(app)
    visitor = Visitor(app)
    wrong, unknown = visitor.sign_in("root", "Wrong12345"), visitor.sign_in("nobody", "Wrong12345")
    assert (wrong.status_code, unknown.status_code) == (401, 401)
    assert "User name or password is wrong." in words(wrong)
    assert words(wrong) == words(unknown)
    assert 'value="root"' in wrong.text
    assert visitor.sign_in("", "").status_code == 401
    assert visitor.sign_in("x" * 300, "y" * 300).status_code == 400
    assert visitor.cookie is None


def test_guessing_is_throttled_together_with_the_api_s_login(app: Flask) -> None:
    """Promise A9: ten tries a minute on an account, wherever they are made."""
    root = Visitor.admin(app)
    for _ in range(5):
        root.http.post("/api/auth/login", json={"username": "root", "password": "Wrong12345"})
    visitor = Visitor(app)
    told = [visitor.sign_in("root", "Wrong12345") for _ in range(8)]
    assert told[0].status_code == 401
    assert (told[-1].status_code, "Too many tries" in words(told[-1])) == (429, True)


def test_one_goes_on_to_the_page_one_came_for_and_never_to_another_site(app: Flask) -> None:
    Visitor.admin(app)
    visitor = Visitor(app)
    asked = visitor.get("/admin/session", status=302)
    assert asked.headers["Location"] == "/admin/sign-in?next=/admin/session"
    assert 'name="next" value="/admin/session"' in visitor.get(asked.headers["Location"]).text
    assert visitor.sign_in(next="/admin/session").headers["Location"] == "/admin/session"
    for elsewhere in ("https://evil.example/", "//evil.example", "/admin/\\evil", "/admin/..//evil.example", "/docs"):
        assert Visitor(app).sign_in(next=elsewhere).headers["Location"] == "/admin/overview"


# -- how long they stay -----------------------------------------------------------------------------------------------


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(app: Flask) -> None:
    """ADMIN-SESSION-001."""
    Visitor.admin(app)
    given = Visitor(app).sign_in().headers.getlist("Set-Cookie")
    attributes = {part.strip() for part in given[0].split(";")[1:]}
    assert given[0].startswith("flaskllm-admin=")
    assert attributes == {"HttpOnly", "Path=/", "SameSite=Lax"}


def test_over_https_the_cookie_is_bound_to_the_host(app: Flask) -> None:
    Visitor.admin(app)
    client = app.test_client()
    page = client.get("/admin/sign-in", base_url="https://localhost").text
    token = re.search(r'name="csrf" value="([0-9a-f]+)"', page)
    assert token is not None
    form = {"csrf": token[1], "username": "root", "password": PASSWORD}
    given = client.post("/admin/sign-in", data=form, base_url="https://localhost").headers.getlist("Set-Cookie")
    assert given[0].startswith("__Host-flaskllm-admin=")
    assert {part.strip() for part in given[0].split(";")[1:]} == {"Secure", "HttpOnly", "Path=/", "SameSite=Lax"}


def test_a_sign_in_makes_a_new_secret_whatever_was_planted(app: Flask) -> None:
    """ADMIN-SESSION-002."""
    Visitor.admin(app)
    visitor = Visitor(app)
    visitor.http.set_cookie("flaskllm-admin", "planted")
    assert is_led_to_the_entrance(visitor.http.get("/admin/audit"))
    visitor.http.set_cookie("flaskllm-admin", "planted")
    visitor.sign_in()
    first = visitor.cookie
    visitor.sign_in()
    assert len({first, visitor.cookie, "planted", None}) == 4


def test_a_sign_out_is_real(app: Flask) -> None:
    """ADMIN-SESSION-003, 010: the cookie is dead on the server, and no page stays in a cache."""
    root = Visitor.admin(app)
    kept = root.cookie or ""
    assert root.get("/admin/audit").headers["Cache-Control"] == "no-store"
    out = root.post("/admin/sign-out")
    assert is_led_to_the_entrance(out)
    assert "flaskllm-admin=;" in out.headers["Set-Cookie"]
    root.http.set_cookie("flaskllm-admin", kept)
    assert is_led_to_the_entrance(root.http.get("/admin/audit"))


def test_signing_out_everywhere_ends_every_browser_and_every_program_of_this_account_alone(app: Flask) -> None:
    root, other = Visitor.admin(app), Visitor.admin(app, "other")
    same = Visitor(app)
    same.sign_in()
    access = root.services.accounts.login("root", PASSWORD).access_token
    root.sure("/admin/sign-out-everywhere")
    assert is_led_to_the_entrance(same.http.get("/admin/audit"))
    assert root.http.get("/api/profile", headers={"Authorization": f"Bearer {access}"}).status_code == 401
    other.get("/admin/audit")


@pytest.mark.parametrize("change", ["password", "status"])
def test_a_new_password_and_a_barred_account_end_a_sign_in(app: Flask, change: str) -> None:
    Visitor.admin(app)
    second = Visitor.admin(app, "second")
    accounts = second.services.accounts
    user = accounts.find_user("second")
    accounts.change_user(user.id, {change: NEW_PASSWORD if change == "password" else "disabled"})
    assert is_led_to_the_entrance(second.http.get("/admin/audit"))


def test_who_is_busy_stays_and_who_is_away_for_an_hour_does_not(app: Flask) -> None:
    root = Visitor.admin(app)
    for _ in range(3):
        aged(app, expires_at=PAGE_IDLE - timedelta(minutes=5))
        root.get("/admin/audit")
    aged(app, expires_at=PAGE_IDLE)
    assert is_led_to_the_entrance(root.http.get("/admin/audit"))


def test_what_a_page_asks_by_itself_keeps_nobody_signed_in(app: Flask) -> None:
    root = Visitor.admin(app)
    aged(app, expires_at=PAGE_IDLE - timedelta(minutes=5))
    for _ in range(2):
        root.get("/admin/batches", headers={"X-Unattended": "1"})
    aged(app, expires_at=timedelta(minutes=5))
    assert is_led_to_the_entrance(root.http.get("/admin/batches", headers={"X-Unattended": "1"}))


def test_nobody_stays_beyond_twelve_hours(app: Flask) -> None:
    root = Visitor.admin(app)
    aged(app, created_at=PAGE_MOST - timedelta(minutes=30), expires_at=timedelta(minutes=59))
    root.get("/admin/audit")
    with app.app_context():
        assert db.session.query(LoginSession).one().expires_at <= now() + timedelta(minutes=30)
    aged(app, expires_at=timedelta(minutes=30))
    assert is_led_to_the_entrance(root.http.get("/admin/audit"))


# -- what a form has to prove -----------------------------------------------------------------------------------------


def test_without_the_token_of_this_very_session_no_form_does_anything(app: Flask) -> None:
    """ADMIN-CSRF-001 to 003, on every page that changes something."""
    root, other = Visitor.admin(app), Visitor.admin(app, "other")
    old = root.token()
    root.sign_in()
    before = everything(app)
    for method, path in closed(app):
        for token in (None, "", "x", "é", other.token(), old) if method == "POST" else ():
            data = {} if token is None else {"csrf": token}
            assert root.http.post(path, data=data).status_code == 403, (path, token)
            if token and token.isascii():
                assert root.http.post(path, headers={"X-CSRF-Token": token}).status_code == 403
    assert everything(app) == before


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "null"},
        {"Origin": "https://evil.example"},
        {"Origin": "http://localhost.evil.example"},
        {"Origin": "http://localhost:8443"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "null", "Sec-Fetch-Site": "same-origin"},
        {"Origin": "http://localhost", "Sec-Fetch-Site": "cross-site"},
    ],
)
def test_a_form_of_another_site_is_refused_even_with_the_token(app: Flask, headers: dict[str, str]) -> None:
    """ADMIN-CSRF-004 to 006."""
    root = Visitor.admin(app)
    token = root.token()
    for method, path in closed(app):
        if method == "POST":
            assert root.http.post(path, data={"csrf": token}, headers=headers).status_code == 403, path
    root.get("/admin/audit")


@pytest.mark.parametrize(
    "headers", [{}, {"Origin": "http://localhost"}, {"Origin": "http://other:1", "Sec-Fetch-Site": "same-origin"}]
)
def test_a_form_of_ours_is_taken_in_a_field_and_in_htmx_s_header(app: Flask, headers: dict[str, str]) -> None:
    """The last: behind a proxy that changes ``Host`` the browser's own word counts."""
    for carried in ("field", "header"):
        root = Visitor.admin(app, f"root-{carried}")
        token = root.token()
        more: dict[str, Any] = {"data": {"csrf": token}} if carried == "field" else {}
        if carried == "header":
            headers = {**headers, "X-CSRF-Token": token}
        assert is_led_to_the_entrance(root.http.post("/admin/sign-out", headers=headers, **more))


def test_the_sign_in_itself_takes_no_form_of_another_site(app: Flask) -> None:
    Visitor.admin(app)
    client = app.test_client()
    form = {"username": "root", "password": PASSWORD}
    assert client.post("/admin/sign-in", data=form).status_code == 403
    assert client.post("/admin/sign-in", data={**form, "csrf": Visitor(app).token("/admin/sign-in")}).status_code == 403
    assert client.get_cookie("flaskllm-admin") is None


def test_nothing_changes_by_a_link(app: Flask) -> None:
    """ADMIN-CSRF-007."""
    root = Visitor.admin(app)
    reads = {path for method, path in pages(app) if method == "GET"}
    for method, path in pages(app):
        if method == "POST" and path not in reads:
            assert root.http.get(path).status_code in (404, 405), path


def test_a_body_without_end_is_refused(app: Flask) -> None:
    root = Visitor.admin(app)
    assert root.http.post("/admin/sign-out", data={"csrf": "x" * 300_000}).status_code == 413


# -- what every page says ---------------------------------------------------------------------------------------------


def test_every_page_has_a_strict_policy_and_is_kept_by_nobody(app: Flask) -> None:
    root = Visitor.admin(app)
    for method, path in pages(app):
        answer = root.http.open(path, method=method)
        assert answer.headers["Cache-Control"] == "no-store", path
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert "Access-Control-Allow-Origin" not in answer.headers
        if answer.status_code not in (302, 303):
            assert answer.mimetype == "text/html", (method, path)
            assert answer.headers["Content-Security-Policy"].startswith("default-src 'self'; ")
            assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]* src=)|javascript:", answer.text), path


def test_another_site_is_not_told_that_it_may_read(app: Flask) -> None:
    root = Visitor.admin(app)
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    for answer in (root.http.options("/admin/audit", headers=asked), root.http.get("/admin/audit", headers=asked)):
        assert not [name for name, _ in answer.headers if name.startswith("Access-Control")]


def test_a_page_that_is_not_there_is_told_as_a_page(app: Flask) -> None:
    root = Visitor.admin(app)
    missing = root.get("/admin/<script>alert(1)</script>", status=404)
    assert missing.mimetype == "text/html"
    assert "<script>alert" not in missing.text
    assert root.get("/admin/audit?unknown=1", status=400).mimetype == "text/html"
    assert "unknown is not a known parameter" in words(root.get("/admin/audit?unknown=1", status=400)).replace(":", "")


def test_htmx_is_told_to_go_to_the_entrance(app: Flask) -> None:
    answer = app.test_client().get("/admin/audit", headers={"HX-Request": "true"})
    assert (answer.status_code, answer.headers["HX-Redirect"]) == (401, "/admin/sign-in?next=/admin/audit")


def test_the_licence_stands_beside_htmx(app: Flask) -> None:
    folder = Path(app.static_folder or "") / "htmx"
    assert {path.name for path in folder.iterdir()} == {"LICENSE", "htmx.min.js"}


# -- the first administrator ------------------------------------------------------------------------------------------


def first(visitor: Visitor, **form: str) -> TestResponse:
    asked = {"username": "root", "email": "root@example.com", "password": PASSWORD, **form}
    return visitor.post("/admin/first-run", asked, at="/admin/first-run")


def test_a_gateway_without_an_administrator_leads_to_the_page_that_makes_one(app: Flask) -> None:
    visitor = Visitor(app)
    assert visitor.get("/admin/sign-in", status=302).headers["Location"] == "/admin/first-run"
    made = first(visitor, code=visitor.services.first_run.code)
    assert made.status_code == 303
    assert "root" in words(visitor.get("/admin/session"))
    user = visitor.services.accounts.find_user("root")
    assert (user.role, "admin" in user.scopes) == ("admin", True)
    assert visitor.services.audit.list(limit=1)[0][0].action == "user.create"


@pytest.mark.parametrize("code", ["", "AAAA-AAAA-AAAA-AAAA", "é"])
def test_without_the_code_nobody_makes_the_first_administrator(app: Flask, code: str) -> None:
    """Not from loopback either: behind a proxy everybody comes from there."""
    visitor = Visitor(app)
    refused = first(visitor, code=code)
    assert (refused.status_code, visitor.cookie) == (403, None)
    assert 'value="root@example.com"' in refused.text
    assert PASSWORD not in refused.text
    assert visitor.services.first_run.is_open()


def test_the_code_cannot_be_guessed_at_for_long(app: Flask) -> None:
    visitor = Visitor(app)
    assert [first(visitor, code="x").status_code for _ in range(12)][-1] == 429


def test_the_code_is_taken_as_people_type_it_and_is_the_same_in_every_process(app: Flask) -> None:
    visitor = Visitor(app)
    said = app.test_cli_runner().invoke(args=["setup-code"])
    assert said.output.strip() == visitor.services.first_run.code
    assert first(visitor, code=" " + said.output.lower().replace("-", " ")).status_code == 303


def test_where_there_is_an_administrator_no_code_makes_another(app: Flask) -> None:
    root = Visitor.admin(app)
    visitor = Visitor(app)
    assert is_led_to_the_entrance(visitor.get("/admin/first-run", status=302))
    form = {"code": root.services.first_run.code, "username": "second", "email": "s@example.com", "password": PASSWORD}
    assert visitor.post("/admin/first-run", form, at="/admin/sign-in").status_code == 409
    assert app.test_cli_runner().invoke(args=["setup-code"]).exit_code == 1


def test_a_weak_password_or_a_bad_name_is_told_at_its_field(app: Flask) -> None:
    visitor = Visitor(app)
    code = visitor.services.first_run.code
    refused = first(visitor, code=code, password="weak", username="a b")
    assert refused.status_code == 400
    assert re.search(r'id="f-username"[^>]*aria-invalid="true"', refused.text)
    assert re.search(r'id="f-password"[^>]*aria-invalid="true"', refused.text)


def test_in_production_the_cookie_waits_for_https_and_the_page_says_so(make_app: MakeApp) -> None:
    names = ("SECRET_KEY", "JWT_SECRET_KEY", "LLM_GATEWAY_ENCRYPTION_KEY")
    app = make_app(ENVIRONMENT="production", **{name: secrets.token_urlsafe(48) for name in names})
    visitor = Visitor(app)
    visitor.services.accounts.create_user("root", "root@example.com", PASSWORD, admin=True)
    page = visitor.get("/admin/sign-in")
    assert "HTTPS" in words(page)
    assert page.headers["Set-Cookie"].startswith("__Host-flaskllm-form=")
    assert "Secure" in page.headers["Set-Cookie"]


# -- the trail --------------------------------------------------------------------------------------------------------


def test_the_trail_is_paged_and_can_be_filtered(app: Flask) -> None:
    root = Visitor.admin(app)
    for number in range(4):
        root.services.accounts.create_user(f"user{number}", f"user{number}@example.com", PASSWORD)
    shown = root.get("/admin/audit?limit=2")
    assert ("user3" in shown.text, "user1@" in shown.text) == (True, False)
    following = re.search(r'href="(/admin/audit\?after=\d+)', shown.text)
    assert following is not None
    assert "user1@" in root.get(following[1] + "&limit=2").text
    assert "Nothing here." in words(root.get("/admin/audit?action=token.create&actor=&target="))
    assert root.get("/admin/audit?after=x", status=400).mimetype == "text/html"
    assert root.get("/admin/audit?from=2026-13-45", status=400).mimetype == "text/html"
