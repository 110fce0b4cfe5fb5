"""Providers and their keys at the administrators' pages."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from tests.conftest import MakeApp, provider_environment
from tests.doors.visitor import Visitor, words
from tests.upstream import Upstream, faults

KEY = "sk-canary-of-a-page-0123456789abcdef"
PAYLOAD = '"><img src=x onerror=alert(1)><script>alert(1)</script>'


@pytest.fixture
def root(app: Flask) -> Visitor:
    return Visitor.admin(app)


@pytest.fixture
def visitor(gateway: Flask) -> Visitor:
    """On a gateway with every provider on the simulator."""
    return Visitor.admin(gateway)


def own(visitor: Visitor, base: str, *, name: str = "own", **form: Any) -> TestResponse:
    asked = {"provider_id": name, "param-api_base": base, "models": "model-one\nmodel-two", **form}
    return visitor.post("/admin/providers/~new/openai_compatible", asked)


def settings(visitor: Visitor, provider_id: str = "own", **form: Any) -> dict[str, Any]:
    """The settings' form as the page shows it, with these fields filled in otherwise."""
    text = visitor.get(f"/admin/providers/{provider_id}").text
    shown = dict(re.findall(r'name="((?:display_name|param-[a-z_]+))" type="text" value="([^"]*)"', text))
    return {**shown, **form}


def rows(visitor: Visitor) -> dict[str, str]:
    """The list's rows by their ids."""
    text = visitor.get("/admin/providers").text
    return {re.findall(r"<code[^>]*>([^<]*)", row)[0]: row for row in text.split("<tr>")[2:]}


def fault(page: TestResponse, field: str) -> str:
    assert re.search(rf'id="f-{field}"[^>]*aria-invalid="true"', page.text), words(page)
    found = re.search(rf'id="e-{field}">([^<]*)', page.text)
    return found[1] if found else ""


def entries(visitor: Visitor, count: int = 1) -> list[Any]:
    return list(visitor.services.audit.list(limit=count)[0])


# -- the list ---------------------------------------------------------------------------------------------------------


def test_the_list_says_who_is_on_and_whence_address_and_key_come(make_app: MakeApp, upstream: Upstream) -> None:
    visitor = Visitor.admin(make_app(**provider_environment(upstream, "openai")))
    own(visitor, upstream.llama_base, api_key=KEY)
    told = {name: re.sub(r"<[^>]*>", " ", row) for name, row in rows(visitor).items()}
    assert [word in told["openai"] for word in (" on", "from the environment", "1, from the environment")] == [True] * 3
    assert [word in told["own"] for word in (" on", "entered here", "1, entered here")] == [True] * 3
    assert [word in told["grok"] for word in ("off", "the vendor’s own", "none")] == [True] * 3


def test_the_list_is_paged_and_each_stands_on_it_once(root: Visitor) -> None:
    seen, address = [], "/admin/providers?limit=3"
    while address:
        text = root.get(address).text
        seen += re.findall(r'<code class="muted">([^<]*)', text)
        more = re.search(r'class="button" href="(/admin/providers\?after=[^"]+)"', text)
        address = f"{more[1]}&limit=3" if more else ""
    assert seen == [view.row.id for view in root.services.providers.all()]
    assert root.get("/admin/providers?limit=x", status=400).mimetype == "text/html"


def test_open_breakers_and_keys_put_aside_are_told(visitor: Visitor, upstream: Upstream) -> None:
    upstream.script(faults.status(401), vendor="openai", times=1)
    upstream.script(faults.status(500), vendor="grok", times=5)
    assert "does not accept the key" in words(visitor.post("/admin/providers/openai/test"))
    for _ in range(5):
        visitor.post("/admin/providers/grok/test")
    told = {name: re.findall(r'state bad">([^<]*)', row) for name, row in rows(visitor).items()}
    assert (told["openai"], told["grok"], told["gemini"]) == (["a key put aside"], ["breaker open"], [])


# -- a new one --------------------------------------------------------------------------------------------------------


def test_a_form_is_drawn_from_what_each_kind_says_of_itself(root: Visitor) -> None:
    listed = re.findall(r'href="/admin/providers/~new/([^"]+)"', root.get("/admin/providers/~new").text)
    assert {"openai", "azure_openai", "anthropic", "gemini", "grok", "ngrok", "openai_compatible"} <= set(listed)
    assert "demo" not in listed
    for kind in listed:
        described = root.services.factory.describe(kind)
        text = root.get(f"/admin/providers/~new/{kind}").text
        assert set(re.findall(r'name="param-([a-z_]+)"', text)) == {field.name for field in described.connection}
        assert (re.search(r'id="f-api_key"[^>]* required', text) is not None) == described.key_required
    assert root.get("/admin/providers/~new/nobody", status=400).mimetype == "text/html"


def test_a_provider_is_made_with_its_parameters_key_and_models(visitor: Visitor, upstream: Upstream) -> None:
    made = visitor.post(
        "/admin/providers/~new/azure_openai",
        {
            "provider_id": "azure-two", "display_name": "Azure two", "api_key": upstream.keys["azure"],
            "param-api_base": upstream.azure_endpoint, "param-api_version": "2024-10-21", "param-timeout_s": "30",
            "param-timeouts": "connect_s: 2\nidle_s: 2.5", "param-deployments": "gpt-4o: our-gpt", "models": "gpt-4o",
        },
    )  # fmt: skip
    assert (made.status_code, made.headers["Location"]) == (303, "/admin/providers/azure-two"), words(made)
    row = visitor.services.providers.get("azure-two").row
    assert row.connection == {
        "api_base": upstream.azure_endpoint, "api_version": "2024-10-21", "timeout_s": 30.0,
        "timeouts": {"connect_s": 2.0, "idle_s": 2.5}, "deployments": {"gpt-4o": "our-gpt"},
    }  # fmt: skip
    assert [model.name for model in row.models] == ["gpt-4o"]
    entry = entries(visitor)[0]
    assert (entry.actor_name, entry.action, entry.target) == ("root", "provider.create", "provider:azure-two")
    page = visitor.get("/admin/providers/azure-two")
    assert upstream.keys["azure"] not in page.text
    assert "connect_s: 2" in page.text
    assert "It works" in words(visitor.post("/admin/providers/azure-two/test"))


@pytest.mark.parametrize(
    "field, value, told",
    [
        ("provider_id", "a b", "A-Z"), ("provider_id", "", "1 to 64"), ("provider_id", "demo", "its own id"),
        ("param-api_base", "", "missing"), ("param-api_base", "ftp://host/v1", "http://"),
        ("param-api_base", "http://169.254.169.254/v1", "link-local"), ("param-timeout_s", "soon", "number"),
        ("param-timeouts", "whenever", "object"), ("param-timeouts", "idle_s: never", "number"),
        ("param-stream_options", "maybe", "true or false"), ("models", "a//b", "letters"),
        ("api_key", "two words", "ASCII"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_at_its_field_and_nothing_is_made(
    root: Visitor, field: str, value: str, told: str
) -> None:
    known = len(root.services.providers.all())
    form = {"display_name": "Kept words", "api_key": KEY, field: value}
    name = form.pop("provider_id", "own")
    refused = own(root, form.pop("param-api_base", "http://127.0.0.1:9/v1"), name=name, **form)
    assert refused.status_code in (400, 409), words(refused)
    if field != "param-stream_options":  # a choice: it has no aria-invalid input but its words
        assert told in fault(refused, field)
    assert told in words(refused)
    assert 'value="Kept words"' in refused.text
    assert KEY not in refused.text
    assert len(root.services.providers.all()) == known
    assert entries(root)[0].action == "provider.create.refused"


# -- changes ----------------------------------------------------------------------------------------------------------


def test_a_change_writes_what_differs_and_a_form_sent_as_it_was_writes_nothing(root: Visitor) -> None:
    own(root, "http://127.0.0.1:9/v1")
    before = entries(root)[0].number
    assert root.post("/admin/providers/own", settings(root)).status_code == 303
    assert entries(root)[0].number == before
    changed = root.post(
        "/admin/providers/own",
        settings(root, description="ours\r\nall", default_model="model-two", **{"param-stream_options": "false"}),
    )
    assert changed.status_code == 303, words(changed)
    entry = entries(root)[0]
    assert set(json.loads(entry.after)) == {"description", "default_model", "connection_params"}
    row = root.services.providers.get("own").row
    assert (row.description, row.default_model) == ("ours\nall", "model-two")
    assert row.connection == {"api_base": "http://127.0.0.1:9/v1", "stream_options": False}
    root.post("/admin/providers/own", settings(root, default_model="model-two", **{"param-stream_options": ""}))
    assert root.services.providers.get("own").row.connection == {"api_base": "http://127.0.0.1:9/v1"}


def test_a_shipped_one_that_nobody_changed_stays_untouched(root: Visitor) -> None:
    assert (
        root.post("/admin/providers/grok", settings(root, "grok", description="xAI's Grok models")).status_code == 303
    )
    assert root.services.providers.get("grok").row.origin == "shipped"


def test_an_address_that_goes_elsewhere_asks_for_its_key(root: Visitor) -> None:
    own(root, "http://127.0.0.1:9/v1", api_key=KEY)
    moved = settings(root, **{"param-api_base": "http://127.0.0.1:10/v1"})
    refused = root.post("/admin/providers/own", moved)
    assert refused.status_code == 400
    assert "never follows" in fault(refused, "api_key")
    assert 'value="http://127.0.0.1:10/v1"' in refused.text
    assert root.post("/admin/providers/own", {**moved, "without_key": "1"}).status_code == 303
    view = root.services.providers.get("own")
    assert (view.keys, view.row.connection["api_base"]) == ([], "http://127.0.0.1:10/v1")


def test_a_provider_is_switched_off_and_on(visitor: Visitor) -> None:
    assert visitor.post("/admin/providers/openai/switch", {"enabled": "false"}).status_code == 303
    assert "switched off here" in words(visitor.get("/admin/providers/openai"))
    assert not visitor.services.providers.get("openai").state.on
    assert visitor.post("/admin/providers/openai/switch", {"enabled": "true"}).status_code == 303
    assert visitor.services.providers.get("openai").state.on


def test_a_provider_is_deleted_and_told_so(root: Visitor) -> None:
    own(root, "http://127.0.0.1:9/v1")
    assert "Delete own with its models and keys?" in root.get("/admin/providers/own").text
    assert root.sure("/admin/providers/own/delete").headers["Location"] == "/admin/providers"
    assert root.get("/admin/providers/own", status=404).mimetype == "text/html"
    assert entries(root)[0].action == "provider.delete"


# -- the test button --------------------------------------------------------------------------------------------------


def test_the_test_button_asks_for_real_and_shows_answer_time_and_cost(visitor: Visitor, upstream: Upstream) -> None:
    shown = visitor.post("/admin/providers/openai/test", {"model": "gpt-4o"})
    assert re.search(r"It works: .* gpt-4o, with the key ••••\w{4}, in \d\.\d\d s; \d+ tokens in", words(shown))
    assert [seen.path for seen in upstream.requests] == ["/openai/v1/chat/completions"]
    assert "does not accept the key" not in words(shown)
    assert visitor.post("/admin/providers/nobody/test").status_code == 404
    assert visitor.post("/admin/providers/openai/test", {"model": "nobody"}).status_code == 404


@pytest.mark.parametrize(
    "behaviour, told",
    [
        (faults.status(401), "does not accept the key"), (faults.html(), "web page instead of JSON"),
        (faults.status(429), "limit"), (faults.reset(), "closed the connection"), (faults.half_json(), "JSON object"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_provider_is_the_tests_answer(
    visitor: Visitor, upstream: Upstream, behaviour: Any, told: str
) -> None:
    upstream.script(behaviour, vendor="openai", times=1)
    shown = visitor.post("/admin/providers/openai/test")
    assert (shown.status_code, 'class="notice bad"' in shown.text) == (200, True)
    assert told in words(shown)


# -- keys -------------------------------------------------------------------------------------------------------------


def test_keys_are_added_replaced_and_removed_and_shown_as_masks_alone(root: Visitor) -> None:
    own(root, "http://127.0.0.1:9/v1")
    second, third = KEY.replace("cdef", "2222"), KEY.replace("cdef", "3333")
    for value in (KEY, second):
        added = root.post("/admin/providers/own/keys", {"key_value": value})
        assert added.headers["Location"] == "/admin/providers/own#keys"
    keys = root.services.provider_keys.of("own")
    assert [key.mask for key in keys] == ["••••cdef", "••••2222"]
    taken = root.post("/admin/providers/own/keys", {"key_value": KEY})
    assert (taken.status_code, "already" in fault(taken, "key_value"), KEY in taken.text) == (409, True, False)
    assert root.post("/admin/providers/own/keys", {"key_value": third, "replaces": keys[0].id}).status_code == 303
    assert [key.mask for key in root.services.provider_keys.of("own")] == ["••••2222", "••••3333"]
    entry = entries(root)[0]
    assert (entry.action, json.loads(entry.before)["key_value"], json.loads(entry.after)["key_value"]) == (
        "key.replace", "••••cdef", "••••3333",
    )  # fmt: skip
    assert root.sure(f"/admin/providers/own/keys/{keys[1].id}/delete").status_code == 303
    assert root.sure("/admin/providers/own/keys/none/delete").status_code == 404
    text = root.get("/admin/providers/own").text + root.get("/admin/audit").text
    assert ("••••3333" in text, any(value in text for value in (KEY, second, third))) == (True, False)
    assert "1 to 4096" in fault(root.post("/admin/providers/own/keys", {"key_value": ""}), "key_value")


def test_a_replacement_that_is_refused_leaves_the_old_key(root: Visitor) -> None:
    own(root, "http://127.0.0.1:9/v1", api_key=KEY)
    other = KEY.replace("cdef", "2222")
    root.post("/admin/providers/own/keys", {"key_value": other})
    old = root.services.provider_keys.of("own")[0]
    assert root.post("/admin/providers/own/keys", {"key_value": other, "replaces": old.id}).status_code == 409
    assert old.id in [key.id for key in root.services.provider_keys.of("own")]


def test_a_key_put_aside_is_told_with_the_providers_words_and_put_back(visitor: Visitor, upstream: Upstream) -> None:
    upstream.script(faults.status(401), vendor="openai", times=1)
    visitor.post("/admin/providers/openai/test")
    key = visitor.services.provider_keys.of("openai")[0]
    assert (key.status, key.source) == ("aside", "environment")
    shown = visitor.get("/admin/providers/openai")
    assert "put aside until" in words(shown)
    assert f"/admin/providers/openai/keys/{key.id}/put-back" in shown.text
    assert "/delete" not in re.findall(r'action="(/admin/providers/openai/keys/[^"]+)"', shown.text)[0]
    assert visitor.post(f"/admin/providers/openai/keys/{key.id}/put-back").status_code == 303
    assert visitor.services.provider_keys.of("openai")[0].status == "active"
    entry = entries(visitor)[0]
    assert (entry.action, json.loads(entry.after)) == ("key.put_back", {"status": "active"})
    visitor.post(f"/admin/providers/openai/keys/{key.id}/put-back")
    assert entries(visitor)[0].number == entry.number
    assert visitor.post("/admin/providers/openai/keys/none/put-back").status_code == 404
    assert visitor.sure(f"/admin/providers/openai/keys/{key.id}/delete").status_code == 409


def test_what_was_stored_is_shown_as_it_is_and_never_as_markup(root: Visitor) -> None:
    own(root, "http://127.0.0.1:9/v1", display_name=PAYLOAD, description=PAYLOAD)
    for path in ("/admin/providers", "/admin/providers/own", "/admin/audit"):
        page = root.get(path)
        assert not re.search(r"<img|<script>", page.text)
    assert PAYLOAD in words(root.get("/admin/providers/own"))
    refused = own(root, PAYLOAD, name=PAYLOAD, display_name=PAYLOAD, models=PAYLOAD)
    assert (refused.status_code, re.search(r"<img|<script>", refused.text)) == (400, None)


def test_a_server_without_an_address_stays_off_so_its_key_goes_to_no_vendor(root: Visitor) -> None:
    """Its wire is OpenAI's, its key is not."""
    assert root.post("/admin/providers/llama/keys", {"key_value": KEY}).status_code == 303
    view = root.services.providers.get("llama")
    assert (view.state.on, view.lacks, view.addressed_by) == (False, "address", "nowhere")
    assert "It lacks an address" in words(root.get("/admin/providers/llama"))
    assert "Nothing was sent" in words(root.post("/admin/providers/llama/test"))
