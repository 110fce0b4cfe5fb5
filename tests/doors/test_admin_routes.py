"""Routes at the administrators' pages, and the picture of who is asked in which order."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from flaskllm.domain.chat import ChatRequest
from flaskllm.services.asking_order import ANYBODY
from tests.conftest import MakeApp, provider_environment
from tests.doors.test_admin_providers import entries, fault, own
from tests.doors.visitor import Visitor, words
from tests.upstream import Upstream, faults

PAYLOAD = '"><img src=x onerror=alert(1)><script>alert(1)</script>'
TARGETS = "openai/gpt-4o 3\nanthropic/claude-haiku-4-5"


@pytest.fixture
def root(gateway: Flask) -> Visitor:
    return Visitor.admin(gateway)


def make(visitor: Visitor, **form: Any) -> TestResponse:
    asked = {"name": "house", "strategy": "weighted", "targets": TARGETS, **form}
    return visitor.post("/admin/routes/~new", asked)


def chain(page: TestResponse, label: str = "Asked in this order") -> list[str]:
    """The steps of a chain as a screen reader says them."""
    found = re.search(rf'<ol class="chain" aria-label="{label}">(.*?)</ol>', page.text, re.DOTALL)
    steps = re.findall(r"<li[^>]*>(.*?)</li>", found[1], re.DOTALL) if found else []
    return [" ".join(re.sub(r"<[^>]*>", " ", step).split()) for step in steps]


def names(page: TestResponse, label: str = "Asked in this order") -> list[str]:
    return [re.findall(r"\b[a-z_]+/[\w.-]+", step)[0] for step in chain(page, label)]


def who(visitor: Visitor, name: str) -> TestResponse:
    return visitor.get("/admin/routes/~who", query_string={"name": name})


# -- routes -----------------------------------------------------------------------------------------------------------


def test_a_route_is_made_shown_changed_and_deleted(root: Visitor) -> None:
    made = make(root, context_window="gemini/gemini-2.5-pro", content_filter="gpt-4o-mini, grok/grok-4")
    assert (made.status_code, made.headers["Location"]) == (303, "/admin/routes/house"), words(made)
    row = root.services.routes.get("house").row
    assert row.targets == [
        {"model": "openai/gpt-4o", "weight": 3},
        {"model": "anthropic/claude-haiku-4-5", "weight": 1},
    ]
    assert row.fallbacks == {
        "context_window": ["gemini/gemini-2.5-pro"], "content_filter": ["gpt-4o-mini", "grok/grok-4"],
    }  # fmt: skip
    assert (entries(root)[0].action, entries(root)[0].target) == ("route.create", "route:house")
    assert "openai/gpt-4o (3), anthropic/claude-haiku-4-5 (1)" in words(root.get("/admin/routes"))
    shown = root.get("/admin/routes/house")
    same = {
        "strategy": "weighted", "targets": "openai/gpt-4o 3\nanthropic/claude-haiku-4-5 1",
        "context_window": "gemini/gemini-2.5-pro", "content_filter": "gpt-4o-mini\ngrok/grok-4",
    }  # fmt: skip
    assert all(f">{text}</textarea>" in shown.text for name, text in same.items() if name != "strategy")
    before = entries(root)[0].number
    assert root.post("/admin/routes/house", same).status_code == 303
    assert entries(root)[0].number == before
    assert root.post("/admin/routes/house", {**same, "strategy": "cheapest"}).status_code == 303
    assert set(json.loads(entries(root)[0].after)) == {"strategy"}
    assert root.sure("/admin/routes/house/delete").headers["Location"] == "/admin/routes"
    assert root.get("/admin/routes/house", status=404).mimetype == "text/html"


@pytest.mark.parametrize(
    "field, value, told",
    [
        ("name", "", "1 to 128"), ("name", "a/b", "letters"), ("name", "auto", "choose a model"),
        ("name", "gpt-4o", "name of the model"), ("targets", "", "1 to 16"),
        ("targets", "openai/gpt-4o\nnobody/nothing", "Line 2 is no model"), ("targets", "gpt-4o", "Line 1 "),
        ("targets", "openai/gpt-4o many", "Line 1 "), ("targets", "openai/gpt-4o 9999", "Line 1 "),
        ("targets", "openai/gpt-4o 0", "above 0"), ("context_window", "gpt-4o\nnobody", "Line 2 is no model"),
        ("content_filter", "a b", "Line 1 "), ("targets", PAYLOAD, "Line 1 "),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_at_its_field_with_its_line(root: Visitor, field: str, value: str, told: str) -> None:
    refused = make(root, **{"content_filter": "kept-words-1", field: value})
    assert refused.status_code in (400, 409), words(refused)
    assert told in fault(refused, field)
    assert field == "content_filter" or ">kept-words-1</textarea>" in refused.text
    assert not re.search(r"<img|<script>", refused.text)
    assert root.services.routes.page(limit=10)[0] == []


def test_the_list_is_paged_and_says_who_is_not_on(root: Visitor) -> None:
    for name in ("a", "b", "c"):
        make(root, name=name, targets="openai/gpt-4o\nazure_openai/gpt-4o")
    root.post("/admin/providers/azure_openai/switch", {"enabled": "false"})
    first = root.get("/admin/routes?limit=2")
    assert words(first).count("1 not on") == 2
    following = re.search(r'class="button" href="([^"]*after=[^"]*)"', first.text)
    assert following is not None
    assert "/admin/routes/c" in root.get(following[1]).text


# -- the picture ------------------------------------------------------------------------------------------------------


def test_a_weighted_route_shows_shares_and_its_chains_for_refusals(root: Visitor) -> None:
    make(root, context_window="gemini/gemini-2.5-pro")
    shown = root.get("/admin/routes/house")
    assert names(shown) == ["openai/gpt-4o", "anthropic/claude-haiku-4-5"]
    assert "weight 3, first in 75% of calls" in chain(shown)[0]
    assert "first in 25% of calls" in chain(shown)[1]
    assert names(shown, "Where the prompt is too long for these") == ["gemini/gemini-2.5-pro"]


@pytest.mark.parametrize(
    "name", ["gpt-4o", "openai/gpt-4o", "small", "medium", "large", "auto", "", "text-embedding-3-small", "house"]
)
def test_the_picture_is_the_order_in_which_the_router_asks(root: Visitor, name: str) -> None:
    make(root, strategy="priority")
    drawn = chain(who(root, name))
    assert 1 <= len(drawn) <= 4
    if name.startswith("text-embedding"):
        assert "text-embedding-3-small" in drawn[0]
        return
    asked = root.services.router.plan(ChatRequest(name or None, []), ANYBODY).candidates
    assert names(who(root, name)) == [candidate.name for candidate in asked]


def test_looking_takes_nobodys_turn(root: Visitor, upstream: Upstream) -> None:
    own(root, upstream.llama_base, api_key="sk-first-0123456789")
    root.post("/admin/providers/own/keys", {"key_value": "sk-second-0123456789"})
    for _ in range(3):
        assert "••••6789" in chain(who(root, "own/model-one"))[0]
    assert upstream.requests == []
    request = ChatRequest("own/model-one", [])
    assert len({root.services.router.plan(request, ANYBODY).candidates[0].key.id for _ in range(2)}) == 2


def test_who_is_off_gone_switched_off_or_too_many_is_told_with_the_reason(root: Visitor) -> None:
    own(root, "http://127.0.0.1:9/v1", models="gone-soon\nmodel-two")
    make(
        root,
        strategy="priority",
        targets="own/gone-soon\nopenai/gpt-4o\ngrok/grok-4\nown/model-two\nopenai/gpt-4o-mini\ngemini/gemini-2.5-pro",
    )
    root.post("/admin/providers/grok/switch", {"enabled": "false"})
    root.sure("/admin/providers/own/delete-model/gone-soon")
    root.post("/admin/providers/own/switch-model/model-two", {"enabled": "false"})
    shown = root.get("/admin/routes/house")
    assert names(shown) == ["openai/gpt-4o", "openai/gpt-4o-mini", "gemini/gemini-2.5-pro"]
    told = words(shown).partition("Not asked")[2]
    for text in (
        "there is no such model own/gone-soon", "its provider is off grok/grok-4-0709",
        "the model is switched off own/model-two",
    ):  # fmt: skip
        assert text in told
    assert "enough others stand before it" in words(who(root, "auto"))


def test_an_open_breaker_and_a_key_put_aside_are_drawn_where_they_stand(make_app: MakeApp, upstream: Upstream) -> None:
    root = Visitor.admin(make_app(**provider_environment(upstream), BREAKER_PROBE_SECONDS="600"))
    make(root, strategy="priority", targets="openai/gpt-4o\nanthropic/claude-haiku-4-5\ngemini/gemini-2.5-pro")
    upstream.script(faults.status(401), vendor="openai", times=1)
    upstream.script(faults.status(500), vendor="anthropic", times=5)
    root.post("/admin/providers/openai/test")
    for _ in range(5):
        root.post("/admin/providers/anthropic/test")
    shown = root.get("/admin/routes/house")
    assert names(shown) == ["gemini/gemini-2.5-pro", "openai/gpt-4o", "anthropic/claude-haiku-4-5"]
    _, aside, broken = chain(shown)
    assert "key put aside asked only behind the others" in aside
    assert "breaker open passed over for" in broken
    assert shown.text.count('<li class="skipped">') == 1


def test_strategies_show_the_figure_that_decides(root: Visitor) -> None:
    make(root, strategy="cheapest", targets="openai/gpt-4o\nopenai/gpt-4o-mini")
    shown = root.get("/admin/routes/house")
    assert names(shown) == ["openai/gpt-4o-mini", "openai/gpt-4o"]
    assert "$0.000750 for 1,000 tokens in and 1,000 out" in chain(shown)[0]
    root.post("/admin/routes/house", {"strategy": "fastest", "targets": "openai/gpt-4o"})
    assert "not measured yet" in chain(root.get("/admin/routes/house"))[0]


@pytest.mark.parametrize("name", ["nobody", "openai/nobody", "nobody/gpt-4o", PAYLOAD, "x" * 500, "ünïcode"])
def test_a_name_that_nobody_bears_is_told_and_never_a_fault(root: Visitor, name: str) -> None:
    shown = who(root, name)
    assert "Nobody: " in words(shown)
    assert not re.search(r"<img|<script>", shown.text)


def test_a_provider_that_is_off_is_told_instead_of_an_answer(root: Visitor) -> None:
    root.post("/admin/providers/grok/switch", {"enabled": "false"})
    shown = words(who(root, "grok/grok-4"))
    assert ("which is off" in shown, "its provider is off grok/grok-4-0709" in shown) == (True, True)
    assert root.get("/admin/routes/~who?name=a&name=b", status=400).mimetype == "text/html"


# -- aliases ----------------------------------------------------------------------------------------------------------


def test_an_alias_is_added_shared_listed_and_removed(root: Visitor) -> None:
    for model in ("openai/gpt-4o", "anthropic/claude-haiku-4-5"):
        assert root.post("/admin/routes/~aliases", {"alias": "house-model", "model": model}).status_code == 303
    assert (entries(root)[0].action, entries(root)[0].target) == ("model.update", "model:anthropic/claude-haiku-4-5")
    assert "house-model openai/gpt-4o Remove anthropic/claude-haiku-4-5 Remove" in words(
        root.get("/admin/routes/~aliases")
    )
    assert names(who(root, "house-model")) == ["openai/gpt-4o", "anthropic/claude-haiku-4-5"]
    gone = {"alias": "house-model", "model": "openai/gpt-4o"}
    assert root.post("/admin/routes/~aliases/remove", gone).status_code == 303
    assert names(who(root, "house-model")) == ["anthropic/claude-haiku-4-5"]
    before = entries(root)[0].number
    assert root.post("/admin/routes/~aliases/remove", gone).status_code == 303
    assert entries(root)[0].number == before


@pytest.mark.parametrize(
    "alias, model, field",
    [
        ("", "openai/gpt-4o", "alias"), ("a b", "openai/gpt-4o", "alias"), ("auto", "openai/gpt-4o", "alias"),
        ("gpt-4o-mini", "openai/gpt-4o", "alias"), ("free", "openai/nobody", "model"), ("free", "nobody", "model"),
        (PAYLOAD, "openai/gpt-4o", "alias"), ("free", PAYLOAD, "model"),
    ],
)  # fmt: skip
def test_an_alias_that_cannot_be_is_told_at_its_field(root: Visitor, alias: str, model: str, field: str) -> None:
    refused = root.post("/admin/routes/~aliases", {"alias": alias, "model": model})
    assert (refused.status_code in (400, 409), bool(fault(refused, field))) == (True, True), words(refused)
    assert not re.search(r"<img|<script>", refused.text)


def test_the_aliases_are_paged(root: Visitor) -> None:
    for number in range(3):
        root.post("/admin/routes/~aliases", {"alias": f"zz-{number}", "model": "openai/gpt-4o"})
    assert "zz-0" not in words(root.get("/admin/routes/~aliases?limit=1"))
    told = words(root.get("/admin/routes/~aliases?after=zz-0"))
    assert ("zz-1" in told, "zz-2" in told, "zz-0" in told) == (True, True, False)
