"""What cannot be undone asks first: by the script where there is one, else by a page of its own."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from html import unescape
from typing import Any
from urllib.parse import urlsplit

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from flaskllm.blueprints.admin._pages import ASKED_FIRST, CONFIRMED, QUESTION
from tests.doors import test_admin_batches as batches
from tests.doors import test_admin_quotas as quotas
from tests.doors import test_admin_routes as routes
from tests.doors.test_admin_people import PAYLOADS, last_entry
from tests.doors.test_admin_providers import own
from tests.doors.test_admin_templates import AT, three_versions
from tests.doors.visitor import Visitor, live_parts, words
from tests.people import PASSWORD


@dataclass
class Form:
    """A form of a page, with what a browser sends of it."""

    action: str
    fields: list[tuple[str, str]]

    @property
    def question(self) -> str:
        return dict(self.fields).get(QUESTION, "")

    @property
    def sent(self) -> dict[str, list[str]]:
        return {name: [value for key, value in self.fields if key == name] for name, _ in self.fields}


def forms_of(page: TestResponse) -> list[Form]:
    found = re.findall(r'<form method="post" action="([^"]+)"[^>]*>(.*?)</form>', page.text, re.DOTALL)
    hidden = re.compile(r'<input type="hidden" name="([^"]+)" value="([^"]*)">')
    return [
        Form(unescape(action), [(name, unescape(value)) for name, value in hidden.findall(inside)])
        for action, inside in found
    ]


def a_token(root: Visitor, name: str = "robot") -> str:
    row, _ = root.services.tokens.issue_for_user("root", {"name": name})
    return f"/admin/tokens/{row.id}"


def a_person(root: Visitor) -> str:
    return f"/admin/people/{root.services.accounts.create_user('bob', 'bob@example.com', PASSWORD).id}"


def a_job(root: Visitor) -> str:
    user = root.services.accounts.create_user("alice", "alice@example.com", PASSWORD)
    owner = root.services.accounts.principal_of(user.id)
    return f"/admin/batches/{batches.sent(root, owner, batches.asked()).id}"


def a_route(root: Visitor) -> str:
    return made(routes.make(root, targets="demo/demo"))


def a_quota(root: Visitor) -> str:
    return made(quotas.make(root))


def a_provider(root: Visitor) -> str:
    return made(own(root, "http://127.0.0.1:9/v1"))


def a_model(root: Visitor) -> str:
    own(root, "http://127.0.0.1:9/v1")
    return "/admin/providers/own/models/model-one"


def a_key(root: Visitor) -> str:
    return made(own(root, "http://127.0.0.1:9/v1", api_key="sk-of-nobody-0123456789"))


def a_template(root: Visitor) -> str:
    three_versions(root)
    return AT


def a_version(root: Visitor) -> str:
    return f"{a_template(root)}/versions"


def a_session(root: Visitor) -> str:
    return "/admin/session"


def made(answer: TestResponse) -> str:
    assert answer.status_code == 303, words(answer)
    return answer.headers["Location"]


KINDS: dict[str, tuple[Callable[[Visitor], str], str, str]] = {
    "admin.cancel_batch": (a_job, "/cancel", "Cancel this job of alice?"),
    "admin.close_person": (a_person, "/close", "Close the account of bob for good?"),
    "admin.delete_key": (a_key, r"/keys/[^/]+/delete", "Remove the key ••••6789?"),
    "admin.delete_model": (a_model, "/delete-model/model-one", "Delete the model model-one?"),
    "admin.delete_provider": (a_provider, "/own/delete", "Delete own with its models and keys?"),
    "admin.delete_quota": (a_quota, "/quotas/one/delete", "Delete this quota: Tag team-a?"),
    "admin.delete_route": (a_route, "/house/delete", "Delete the route house?"),
    "admin.delete_template": (a_template, "/delete", "Delete the template haiku? Who asks by it is refused."),
    "admin.leave_everywhere": (a_session, "/sign-out-everywhere", "End every session of your account"),
    "admin.restore_version": (a_version, "/restore", "Write version 2 anew, as the one that serves?"),
    "admin.revoke_token": (a_token, "/revoke", "Revoke the token robot? What uses it stops"),
}
"""What makes such a thing and gives its page's address, how the form's action ends there, and what it asks."""


@pytest.fixture
def root(app: Flask) -> Visitor:
    return Visitor.admin(app)


def form_at(root: Visitor, page: str, ending: str) -> Form:
    found = [form for form in forms_of(root.get(page)) if re.search(f"{ending}$", form.action)]
    assert found, page
    return found[0]


def state(root: Visitor) -> tuple[int, int]:
    """What a deed changes: the trail, and whether one is signed in."""
    return last_entry(root).number, root.http.get("/admin/session").status_code


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_done_before_the_question_is_answered(root: Visitor, kind: str) -> None:
    thing, ending, question = KINDS[kind]
    page = thing(root)
    form, before = form_at(root, page, ending), state(root)
    assert form.question.startswith(question)
    asked = root.http.post(form.action, data=form.sent, headers={"Referer": f"http://localhost{page}"})
    assert (asked.status_code, asked.headers["Cache-Control"], live_parts(asked.text)) == (200, "no-store", [])
    assert form.question in words(asked)
    assert state(root) == before
    (again,) = [one for one in forms_of(asked) if one.action == form.action]
    kept = {name: value for name, value in form.fields if name != QUESTION}
    assert dict(again.fields) == {**kept, CONFIRMED: "yes"}
    assert f'<a class="button" href="{page}">No, back</a>' in unescape(asked.text)
    done = root.http.post(again.action, data=again.sent)
    assert done.status_code == 303, words(done)
    assert state(root) != before


@pytest.mark.parametrize("kind", KINDS)
def test_with_the_answer_that_the_script_adds_it_is_done_at_once(root: Visitor, kind: str) -> None:
    thing, ending, _ = KINDS[kind]
    form, before = form_at(root, thing(root), ending), state(root)
    done = root.http.post(form.action, data={**form.sent, CONFIRMED: "yes"})
    assert done.status_code == 303, words(done)
    assert state(root) != before


@pytest.mark.parametrize("kind", KINDS)
def test_a_form_of_another_site_is_refused_before_anything_is_asked(root: Visitor, kind: str) -> None:
    thing, ending, question = KINDS[kind]
    form, before = form_at(root, thing(root), ending), state(root)
    for more in ({}, {CONFIRMED: ["yes"]}):
        refused = root.http.post(form.action, data={**form.sent, "csrf": ["0" * 64], **more})
        assert (refused.status_code, question in words(refused)) == (403, False)
    assert state(root) == before


def test_every_form_that_asks_is_one_that_the_server_asks_of(app: Flask) -> None:
    """And the other way round, so that none is forgotten on either side."""
    assert app.jinja_loader is not None
    ask = re.compile(r"url_for\('(admin\.\w+)'[^>]*>\s*\{\{ asked\(")
    names = [name for name in app.jinja_loader.list_templates() if name.startswith("admin/")]
    found = [ask.findall(app.jinja_loader.get_source(app.jinja_env, name)[0]) for name in names]
    assert {endpoint for one in found for endpoint in one} == ASKED_FIRST == set(KINDS)


def test_what_deletes_asks_first(app: Flask) -> None:
    """Whoever adds a view of such a name is reminded."""
    ends = re.compile(r"admin\.(delete|remove|revoke|close|cancel|restore)_|_everywhere$")
    posts = {rule.endpoint for rule in app.url_map.iter_rules() if "POST" in (rule.methods or ())}
    assert {endpoint for endpoint in posts if ends.search(endpoint)} - {"admin.remove_alias"} == ASKED_FIRST


@pytest.mark.parametrize("payload", PAYLOADS)
def test_what_was_stored_is_asked_about_as_text(root: Visitor, payload: str) -> None:
    page = a_token(root, payload)
    form = form_at(root, page, "/revoke")
    asked = root.http.post(form.action, data=form.sent)
    assert f"Revoke the token {' '.join(payload.split())}?" in words(asked)
    assert live_parts(asked.text) == []


def test_where_one_came_from_is_a_page_of_ours_or_the_first(root: Visitor) -> None:
    form = form_at(root, a_token(root), "/revoke")

    def back(**headers: Any) -> str:
        asked = root.http.post(form.action, data=form.sent, headers=headers)
        found = re.search(r'href="([^"]*)">No, back', asked.text)
        assert found is not None
        return unescape(found[1])

    assert back(Referer="https://gateway.example/admin/tokens?after=1&limit=5") == "/admin/tokens?after=1&limit=5"
    for elsewhere in ("https://evil.example/", "//evil.example", "javascript:alert(1)", "https://evil.example//admin/"):
        assert back(Referer=elsewhere) == "/admin/overview"
    assert back() == "/admin/overview"
    assert urlsplit(back(Referer="https://evil.example/admin/x")).netloc == ""


def test_a_form_without_words_is_asked_about_in_plain_ones(root: Visitor) -> None:
    action = f"{a_token(root)}/revoke"
    for form in ({}, {QUESTION: ""}, {CONFIRMED: ""}):
        asked = root.post(action, form)
        assert (asked.status_code, "This cannot be undone." in words(asked)) == (200, True)


def test_who_is_not_signed_in_is_asked_nothing(app: Flask) -> None:
    action = f"{a_token(Visitor.admin(app))}/revoke"
    answer = Visitor(app).post(action, at="/admin/sign-in")
    assert (answer.status_code, urlsplit(answer.headers["Location"]).path) == (303, "/admin/sign-in")
