"""Prompt templates at the administrators' pages: the editor, versions, differences, and trying out on a model."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from flaskllm.domain.audit import SYSTEM
from flaskllm.services.templates import TemplateService
from flaskllm.wire.quotas import read_quota
from tests.conftest import MakeApp, provider_environment
from tests.doors.test_admin_people import PAYLOADS, last_entry
from tests.doors.visitor import Visitor, words
from tests.upstream import Upstream, faults

HAIKU = {
    "name": "haiku", "type": "custom", "system_text": "You are a {{ mood }} poet.",
    "user_text": "Write about {{ topic }}.\r\nNo rhymes.", "default.mood": "calm", "parameters.temperature": "0.2",
    "parameters.stop": "\\n\\n\r\n###", "cache": "1",
}  # fmt: skip
AT = "/admin/templates/named/haiku"


@pytest.fixture
def root(app: Flask) -> Visitor:
    return Visitor.admin(app)


def write(visitor: Visitor, **form: Any) -> TestResponse:
    return visitor.post("/admin/templates/new", {**HAIKU, **form})


def templates(visitor: Visitor) -> TemplateService:
    found: TemplateService = visitor.services.templates
    return found


def shown_fields(page: TestResponse) -> dict[str, list[str]]:
    """The editor's form as a browser would send it."""
    form = re.search(r'<form method="post"[^>]* class="template">(.*?)</form>', page.text, re.DOTALL)
    assert form is not None, words(page)
    found: dict[str, list[str]] = {}
    for name, value in re.findall(
        r'<input[^>]*? name="([^"]+)"[^>]*? value="([^"]*)"(?![^>]*type="checkbox")', form[1]
    ):
        if not re.search(rf'type="checkbox" name="{re.escape(name)}" value="{re.escape(value)}"(?! checked)', form[1]):
            found.setdefault(name, []).append(unescape(value))
    for name, value in re.findall(r'<textarea[^>]*? name="([^"]+)"[^>]*>\n?(.*?)</textarea>', form[1], re.DOTALL):
        found.setdefault(name, []).append(unescape(value).replace("\n", "\r\n"))
    kind = re.search(r'<option value="(\w+)" selected', form[1])
    found["type"] = [kind[1]] if kind else []
    return found


# -- the editor -------------------------------------------------------------------------------------------------------


def test_a_template_is_written_with_the_variables_that_its_texts_use(root: Visitor) -> None:
    made = write(root)
    assert (made.status_code, made.headers["Location"]) == (303, AT)
    held = templates(root).get("haiku")
    assert (held.user_text, dict(held.variables)) == (
        "Write about {{ topic }}.\nNo rhymes.", {"mood": "calm", "topic": None},
    )  # fmt: skip
    assert (dict(held.parameters), held.cache, held.version) == (
        {"temperature": 0.2, "stop": ["\n\n", "###"]}, True, 1,
    )  # fmt: skip
    assert (last_entry(root).action, last_entry(root).target) == ("template.create", "template:haiku")
    assert "your own" in words(root.get("/admin/templates?search=HAI"))


def test_the_shipped_ones_are_marked_and_a_change_stands_before_one(root: Visitor) -> None:
    assert words(root.get("/admin/templates")).count("shipped") == 6
    path = "/admin/templates/named/summary"
    form = shown_fields(root.get(path)) | {"description": ["Ours."]}
    assert root.post(path, form).status_code == 303
    assert "shipped, changed Version 2." in words(root.get(path))
    assert root.sure(f"{path}/delete").status_code == 303
    assert templates(root).get("summary").shipped
    refused = root.sure(f"{path}/delete")
    assert (refused.status_code, "is shipped and cannot be deleted" in words(refused)) == (409, True)


@pytest.mark.parametrize("name", ["haiku", "summary", "keywords", "sentiment", "entities", "translation", "custom"])
def test_saving_what_is_shown_writes_nothing(root: Visitor, name: str) -> None:
    write(root, **{"parameters.stop": "\\n\\n"})
    path, before = f"/admin/templates/named/{name}", templates(root).get(name)
    saved = root.post(path, shown_fields(root.get(path)))
    assert saved.status_code == 303, words(saved)
    assert templates(root).get(name) == before


def test_a_change_is_a_version_and_a_variable_without_a_place_goes_unless_it_is_kept(root: Visitor) -> None:
    write(root)
    shown = shown_fields(root.get(AT))
    changed = {**shown, "system_text": ["You are a poet. {{ new }}"], "empty": ["new"]}
    assert root.post(AT, changed).status_code == 303
    held = templates(root).get("haiku")
    assert (held.version, dict(held.variables)) == (2, {"topic": None, "new": ""})
    kept = {**shown_fields(root.get(AT)), "user_text": ["Write."], "keep": ["topic"]}
    assert root.post(AT, kept).status_code == 303
    assert dict(templates(root).get("haiku").variables) == {"topic": None, "new": ""}
    assert shown_fields(root.get(AT))["keep"] == ["topic"]


@pytest.mark.parametrize(
    "field, value, at",
    [
        ("name", "", "name"), ("name", "a b", "name"), ("type", "poem", "type"), ("user_text", "", "user_text"),
        ("parameters.temperature", "hot", "parameters.temperature"), ("parameters.seed", "1.5", "parameters.seed"),
        ("parameters.temperature", "3", "parameters.temperature"), ("model", "m" * 257, "model"),
        ("system_text", "x" * 100_001, "system_text"), ("description", "x" * 1001, "description"),
        ("system_text", "\0", "system_text"), ("parameters.stop", "a\nb\nc\nd\ne", "parameters.stop"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_at_its_field_and_nothing_is_written(
    root: Visitor, field: str, value: str, at: str
) -> None:
    refused = write(root, **{field: value})
    assert refused.status_code == 400, words(refused)
    assert re.search(rf'id="f-{re.escape(at)}"[^>]*aria-invalid="true"', refused.text)
    assert "Write about {{ topic }}." in refused.text or at == "user_text"
    assert [one.name for one in templates(root).all()].count("haiku") == 0


def test_too_many_variables_and_a_taken_name_are_told(root: Visitor) -> None:
    many = write(root, user_text=" ".join(f"{{{{ v{number} }}}}" for number in range(33)))
    assert (many.status_code, "must have at most 32 entries" in words(many)) == (400, True)
    taken = write(root, name="summary")
    assert (taken.status_code, "There is a template summary already" in words(taken)) == (409, True)


def test_who_was_overtaken_is_told_and_may_write_over_it_knowingly(root: Visitor) -> None:
    write(root)
    mine = shown_fields(root.get(AT)) | {"description": ["mine"]}
    theirs = shown_fields(root.get(AT)) | {"description": ["theirs"]}
    assert root.post(AT, theirs).status_code == 303
    refused = root.post(AT, mine)
    assert (refused.status_code, "just been changed by somebody else" in words(refused)) == (409, True)
    assert templates(root).get("haiku").description == "theirs"
    again = shown_fields(refused)
    assert (again["description"], again["seen"]) == (["mine"], ["2"])
    assert root.post(AT, again).status_code == 303
    assert templates(root).get("haiku").description == "mine"


def test_the_variables_are_listed_while_one_types(root: Visitor) -> None:
    write(root)
    form = {"of": "haiku", "system_text": "", "user_text": "{{ topic }} {{ fresh }}", "default.mood": "glad"}
    rows = root.post("/admin/templates/variables", form)
    assert "2 variables: topic, fresh" in words(rows)
    assert "mood in neither text" in words(rows)
    assert re.findall(r'name="keep" value="(\w+)"', rows.text) == ["mood"]
    assert ">\nglad</textarea>" not in rows.text
    assert "glad</textarea>" in rows.text
    assert "None yet" in words(root.post("/admin/templates/variables", {"user_text": "{{ 7 * 7 }}"}))
    assert len(templates(root).versions("haiku")) == 1


def test_a_long_text_is_taken(root: Visitor) -> None:
    assert write(root, user_text="ü" * 100_000).status_code == 303
    assert root.post("/admin/templates/new", {"user_text": "x" * 3_000_000}).status_code == 413


def test_the_list_is_paged(root: Visitor) -> None:
    first = root.get("/admin/templates?limit=4")
    following = re.search(r'href="(/admin/templates\?after=\w+)"', first.text)
    assert following is not None
    second = words(root.get(following[1]))
    assert ("custom" in words(first), "translation" in words(first), "translation" in second) == (True, False, True)


# -- versions ---------------------------------------------------------------------------------------------------------


def three_versions(root: Visitor) -> None:
    write(root)
    for text in ("Sing of {{ topic }}.\nNo rhymes.", "Sing of {{ topic }}.\nRhyme."):
        root.post(AT, shown_fields(root.get(AT)) | {"user_text": [text]})


def test_two_versions_are_compared_line_by_line_with_signs_and_words(root: Visitor) -> None:
    three_versions(root)
    page = root.get(f"{AT}/compare?from=1&to=3")
    assert "1 − gone Write about {{ topic }}." in words(page)
    assert "2 + new Rhyme." in words(page)
    assert "system text" not in words(page)
    assert "no difference" in words(root.get(f"{AT}/compare?from=2&to=2"))
    assert "Line in version 3" in words(root.get(f"{AT}/compare?from=3&to=1"))
    for query in ("from=1", "from=x&to=1", "from=0&to=1"):
        root.get(f"{AT}/compare?{query}", status=400)
    root.get(f"{AT}/compare?from=1&to=9", status=404)


def test_every_field_that_differs_is_told(root: Visitor) -> None:
    write(root)
    more = {
        "type": ["keywords"],
        "model": ["demo"],
        "parameters.temperature": ["0.7"],
        "default.mood": ["wild"],
        "cache": [],
    }
    root.post(AT, shown_fields(root.get(AT)) | more)
    told = words(root.get(f"{AT}/compare?from=1&to=2"))
    for line in (
        "− gone custom",
        "+ new keywords",
        "+ new demo",
        '+ new mood: "wild"',
        "− gone yes",
        "+ new temperature: 0.7",
    ):
        assert line in told


def test_an_old_version_is_restored_as_a_new_one(root: Visitor) -> None:
    three_versions(root)
    assert root.sure(f"{AT}/restore", {"version": "1"}).headers["Location"] == AT
    held = templates(root).get("haiku")
    assert (held.version, held.user_text) == (4, "Write about {{ topic }}.\nNo rhymes.")
    assert last_entry(root).action == "template.update"
    assert root.sure(f"{AT}/restore", {"version": "9"}).status_code == 404
    assert root.sure(f"{AT}/restore", {"version": "x"}).status_code == 400


def test_a_deleted_template_is_refused_and_can_be_restored(root: Visitor) -> None:
    three_versions(root)
    assert root.sure(f"{AT}/delete").headers["Location"] == f"{AT}/versions"
    root.get(AT, status=404)
    told = words(root.get(f"{AT}/versions"))
    assert ("has been deleted" in told, "deleted" in told) == (True, True)
    assert root.sure(f"{AT}/restore", {"version": "3"}).status_code == 303
    assert templates(root).get("haiku").version == 5
    assert last_entry(root).action == "template.create"


def test_the_versions_are_paged_and_the_shipped_one_is_the_last(root: Visitor) -> None:
    path = "/admin/templates/named/summary"
    for number in range(3):
        root.post(path, shown_fields(root.get(path)) | {"description": [str(number)]})
    first = root.get(f"{path}/versions?limit=2")
    following = re.search(rf'href="({path}/versions\?after=\d+)"', first.text)
    assert following is not None
    last = root.get(following[1])
    assert re.findall(r'name="to" value="(\d)"', first.text + last.text) == ["4", "3", "2", "1"]
    assert ("checked" in first.text, "checked" in last.text) == (True, False)
    assert root.sure(f"{path}/restore", {"version": "1"}).status_code == 303
    assert templates(root).get("summary").description == templates(root).version("summary", 1).description
    for missing in ("versions", "compare?from=1&to=2"):
        root.get(f"/admin/templates/named/nothing/{missing}", status=404)


# -- trying out -------------------------------------------------------------------------------------------------------


@pytest.fixture
def openai(make_app: MakeApp, upstream: Upstream) -> Visitor:
    return Visitor.admin(make_app(**provider_environment(upstream, "openai")))


def attempt(visitor: Visitor, **form: Any) -> TestResponse:
    return visitor.post("/admin/templates/try", {"run": "1", "on_model": "gpt-4o", **form})


def test_a_template_is_tried_out_with_its_prompt_answer_time_tokens_and_cost(
    openai: Visitor, upstream: Upstream
) -> None:
    write(openai)
    upstream.script(faults.text("Rain, at last."))
    told = words(attempt(openai, name="haiku", **{"variables.topic": "rain {{ mood }}"}))
    assert "You are a calm poet." in told
    assert "Write about rain {{ mood }}. No rhymes." in told
    assert "Answer Rain, at last." in told
    assert re.search(r"Answered by openai/gpt-4o Time \d+\.\d\d s Tokens \d+ in, \d+ out Cost \$0\.0\d+", told)
    asked = upstream.requests[-1].body
    assert (asked["model"], asked["temperature"]) == ("gpt-4o", 0.2)


def test_a_typed_answer_is_shown_as_it_was_read_or_with_what_is_wrong(openai: Visitor, upstream: Upstream) -> None:
    upstream.script(faults.text("```json\n['hiring', 'costs',]\n```"), times=1)
    upstream.script(faults.text("I would rather not say."), times=1)
    good = attempt(openai, name="keywords", **{"variables.text": "x"})
    assert 'Typed output [ "hiring", "costs" ]' in words(good)
    bad = attempt(openai, name="keywords", **{"variables.text": "x"})
    assert (bad.status_code, len(upstream.requests)) == (200, 2)
    assert "I would rather not say." in words(bad)
    assert "It cannot be read as keywords: it is not a JSON array of strings" in words(bad)


def test_what_is_missing_is_told_at_its_field_and_nothing_is_asked(openai: Visitor, upstream: Upstream) -> None:
    for name, at in (("summary", "text"), ("translation", "language")):
        refused = attempt(openai, name=name, **({"variables.text": "kept"} if at == "language" else {}))
        assert refused.status_code == 400
        assert re.search(rf'id="f-variables\.{at}"[^>]*aria-invalid="true"', refused.text), words(refused)
    assert "kept</textarea>" in refused.text
    assert upstream.requests == []


def test_a_failing_provider_an_unknown_model_and_a_spent_budget_are_told_in_place(
    openai: Visitor, upstream: Upstream
) -> None:
    values = {"variables.text": "kept"}
    upstream.script(faults.status(500))
    failed = attempt(openai, name="summary", **values)
    assert (failed.status_code, 'role="alert"' in failed.text, "kept</textarea>" in failed.text) == (502, True, True)
    assert "What the model was asked" in words(failed)
    unknown = attempt(openai, name="summary", **values | {"on_model": "gpt-none"})
    assert (unknown.status_code, "kept</textarea>" in unknown.text) == (404, True)
    me = openai.services.accounts.find_user("root")
    openai.services.accounts.change_user(me.id, {"budget": {"amount": 1e-06, "period": "day"}})
    spent = attempt(openai, name="summary", **values)
    assert (spent.status_code, "kept</textarea>" in spent.text) == (429, True)


def test_a_quota_of_the_administrators_own_holds_for_the_page_too(openai: Visitor, upstream: Upstream) -> None:
    me = openai.services.accounts.find_user("root")
    openai.services.quotas.put(f"user:{me.id}", read_quota({"requests_per_minute": 1}), SYSTEM)
    asked = [attempt(openai, name="summary", **{"variables.text": "x"}).status_code for _ in range(2)]
    assert (asked, len(upstream.requests)) == ([200, 429], 1)


def test_an_old_version_and_a_draft_are_tried_and_nothing_is_saved(openai: Visitor, upstream: Upstream) -> None:
    write(openai)
    openai.post(AT, shown_fields(openai.get(AT)) | {"user_text": ["Sing of {{ topic }}."]})
    assert "Version 1." in words(openai.get("/admin/templates/try?name=haiku&version=1"))
    attempt(openai, name="haiku", version="1", **{"variables.topic": "rain"})
    assert upstream.requests[-1].body["messages"][-1]["content"].startswith("Write about rain.")
    draft = shown_fields(openai.get(AT)) | {"user_text": ["Shout of {{ topic }} and {{ more }}."]}
    form = openai.post("/admin/templates/try", draft)
    assert "What stands in the editor, not saved." in words(form)
    assert 'name="variables.more"' in form.text
    asked = openai.post("/admin/templates/try", {**draft, "run": "1", "variables.topic": "a", "variables.more": "b"})
    assert asked.status_code == 200, words(asked)
    assert upstream.requests[-1].body["messages"][-1]["content"] == "Shout of a and b."
    back = openai.post("/admin/templates/draft", draft)
    assert shown_fields(back)["user_text"] == ["Shout of {{ topic }} and {{ more }}."]
    assert templates(openai).get("haiku").version == 2
    wrong = openai.post("/admin/templates/try", draft | {"parameters.temperature": ["hot"]})
    assert (wrong.status_code, 'id="f-parameters.temperature"' in wrong.text) == (400, True)
    nameless = openai.post("/admin/templates/try", {"type": "custom", "user_text": "Hi {{ name }}"})
    assert "Try draft" in words(nameless)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_what_was_written_or_answered_is_shown_as_it_is_and_never_as_markup(
    openai: Visitor, upstream: Upstream, payload: str
) -> None:
    upstream.script(faults.text(payload))
    write(
        openai,
        description=payload,
        system_text=payload,
        user_text=f"{payload} {{{{ topic }}}}",
        **{"default.topic": payload},
    )
    openai.post(AT, shown_fields(openai.get(AT)) | {"system_text": [f"{payload}\n{payload}"]})
    paths = ("/admin/templates", AT, f"{AT}/versions", f"{AT}/compare?from=1&to=2", "/admin/templates/try?name=haiku")
    pages = [openai.get(path) for path in paths]
    pages.append(attempt(openai, name="haiku", **{"variables.topic": payload}))
    pages.append(openai.post("/admin/templates/try", shown_fields(openai.get(AT))))
    assert pages[-2].status_code == 200, words(pages[-2])
    for page in pages:
        assert not re.search(r"<script>|<img|<svg|onerror=alert\(1\)>", page.text)
        assert "49${alert(1)}" not in page.text
    assert " ".join(payload.split()) in words(pages[-2])
