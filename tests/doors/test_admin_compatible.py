"""Anything OpenAI-compatible in one step, at the administrators' pages: what is there, and a button that makes it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from flaskllm.adapters.openai_models import models_in
from flaskllm.domain.provider import MOST_MODELS
from flaskllm.errors import InvalidRequest
from flaskllm.security import Vault
from flaskllm.services.provider_connection import AddressRule
from flaskllm.services.provider_probe import ProviderProbe, proposed_id
from tests.conftest import MakeApp
from tests.doors.test_admin_providers import entries, fault
from tests.doors.visitor import Visitor, words
from tests.upstream import Upstream, faults

PAYLOAD = '"><img src=x onerror=alert(1)><script>alert(1)</script>'
LOOK, ADD = "/admin/providers/~compatible", "/admin/providers/~compatible/add"


@pytest.fixture
def root(app: Flask) -> Visitor:
    return Visitor.admin(app)


def look(visitor: Visitor, base: str, **form: Any) -> TestResponse:
    return visitor.post(LOOK, {"api_base": base, **form})


def hidden(page: TestResponse) -> dict[str, Any]:
    """What the second form carries by itself, its proposals, and what is ticked."""
    form = page.text.partition(f'action="{ADD}"')[2]
    found: dict[str, Any] = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', form))
    found["abilities"] = re.findall(r'name="abilities" value="(\w+)"', form)
    found |= dict(re.findall(r'name="(provider_id|display_name)" type="text" value="([^"]*)"', form))
    found["models"] = re.findall(r'name="models" value="([^"]+)" checked', form)
    return found


def listing(*names: str, **more: Any) -> Any:
    rows = [{"id": name, "object": "model", **more} for name in names]
    return faults.raw(body={"object": "list", "data": rows})


def booked(visitor: Visitor) -> int:
    """Calls of the administrator's that stand in the books."""
    user = visitor.services.accounts.find_user("root")
    return int(visitor.services.usage.report(user.id, None, None, by=()).totals.requests)


# -- the way through --------------------------------------------------------------------------------------------------


def test_an_address_and_a_key_become_a_provider_with_what_it_has(root: Visitor, upstream: Upstream) -> None:
    key = upstream.keys["openai"]
    shown = look(root, upstream.openai_base, api_key=key, **{"try": "1"})
    assert "lists 6 models" in words(shown)
    verdicts = re.findall(r'<span class="state (\w+)">[^<]*</span> <b>([^<]+)', shown.text)
    able = [("good", label) for label in ("Answers", "Streams", "Calls tools", "Keeps to a JSON schema")]
    assert verdicts == [*able, ("good", "Makes vectors")]
    assert key not in shown.text
    assert root.services.catalogue.current().by_id.get("server-" + str(upstream.port)) is None
    form = hidden(shown)
    assert (form["tried"], set(form["abilities"])) == (
        "gpt-4o",
        {"chat", "stream", "tools", "json_schema"},
    )
    made = root.post(ADD, {**form, "provider_id": "found", "display_name": "Found"})
    assert made.headers["Location"] == "/admin/providers/found", words(made)
    view = root.services.providers.get("found")
    assert [(model.name, model.type) for model in view.models] == [
        ("gpt-4o", "chat"), ("gpt-4o-mini", "chat"), ("gpt-5", "chat"), ("o4-mini", "chat"),
        ("text-embedding-3-small", "embedding"), ("gpt-image-1", "image"),
    ]  # fmt: skip
    assert "tools" in view.models[0].abilities
    assert (view.models[1].abilities, view.state.on, [one.mask for one in view.keys]) == ([], True, ["••••" + key[-4:]])
    assert entries(root)[0].action == "provider.create"
    assert "It works" in words(root.post("/admin/providers/found/test"))


def test_looking_asks_for_the_list_alone_and_trying_out_is_booked(root: Visitor, upstream: Upstream) -> None:
    look(root, upstream.llama_base)
    assert [(seen.method, seen.path) for seen in upstream.requests] == [("GET", "/llama/v1/models")]
    assert booked(root) == 0
    look(root, upstream.llama_base, **{"try": "1"})
    asked = [seen.path for seen in upstream.requests][1:]
    assert asked == ["/llama/v1/models", *["/llama/v1/chat/completions"] * 4, "/llama/v1/embeddings"]
    assert len(upstream.bill) == booked(root) == 5


def test_one_that_does_not_answer_is_asked_no_further(root: Visitor, upstream: Upstream) -> None:
    upstream.script(faults.status(500), vendor="llama", route="chat")
    shown = look(root, upstream.llama_base, **{"try": "1"})
    assert [seen.path for seen in upstream.requests].count("/llama/v1/chat/completions") == 1
    assert ">not shown</span> <b>Answers" in shown.text
    assert root.services.catalogue.current().circuits == {}


def test_a_tool_that_is_not_called_is_no_ability(root: Visitor, upstream: Upstream) -> None:
    upstream.script(faults.text(words="no JSON"), vendor="llama", route="chat")
    shown = look(root, upstream.llama_base, **{"try": "1"})
    assert ">not shown</span> <b>Keeps to a JSON schema" in shown.text
    assert "did not answer in JSON" in words(shown)
    assert "json_schema" not in hidden(shown)["abilities"]


# -- what can be wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "base, told",
    [
        ("", "missing"), ("ftp://host/v1", "http:// or https://"), ("http://user:pass@host/v1", "no user name"),
        ("http://169.254.169.254/latest", "link-local"), ("http://0177.0.0.1/v1", "four decimal"),
        ("http://127.0.0.1:1/v1", "cannot be reached"), ("http://host/v1?key=1", "query"), (PAYLOAD, "white space"),
    ],
)  # fmt: skip
def test_an_address_that_cannot_be_is_told_at_its_field(root: Visitor, base: str, told: str) -> None:
    refused = look(root, base, match="kept")
    assert (refused.status_code, told in fault(refused, "api_base")) == (400, True), words(refused)
    assert 'value="kept"' in refused.text
    assert not re.search(r"<img|<script>", refused.text)


@pytest.mark.parametrize(
    "base", ["http://127.0.0.1:{port}/llama/v1", "http://localhost:{port}/llama/v1", "http://[::1]/"]
)
def test_private_addresses_are_looked_at_only_where_the_operator_allows_it(
    make_app: MakeApp, upstream: Upstream, base: str
) -> None:
    visitor = Visitor.admin(make_app(ALLOW_PRIVATE_PROVIDERS="false"))
    for path in (LOOK, ADD):
        refused = visitor.post(path, {"api_base": base.format(port=upstream.port), "models": "x", "provider_id": "x"})
        assert "ALLOW_PRIVATE_PROVIDERS" in fault(refused, "api_base")
    assert upstream.requests == []


@pytest.mark.parametrize(
    "behaviour, field, told",
    [
        (faults.html(), "api_base", "web page"), (faults.status(500), "api_base", "answers, but not as its wire"),
        (faults.status(404), "api_base", "no list of models"), (faults.status(401), "api_key", "asks for a key"),
        (faults.not_json(), "api_base", "not JSON"), (faults.redirect(to="http://169.254.169.254/"), "api_base", ""),
        (faults.raw(body={"object": "list"}), "api_base", "no list of models"), (faults.eof(), "api_base", "closed"),
        (faults.raw(body={"data": "all"}), "api_base", "no list of models"), (faults.empty_body(), "api_base", "JSON"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_answer_is_told_in_words(
    root: Visitor, upstream: Upstream, behaviour: Any, field: str, told: str
) -> None:
    upstream.script(behaviour, vendor="llama", route="models")
    refused = look(root, upstream.llama_base)
    assert (refused.status_code, told in fault(refused, field)) == (400, True), words(refused)
    assert len(upstream.requests) == 1  # no redirect is followed, nothing is tried twice


def test_a_wrong_key_is_told_at_the_key_and_not_shown_again(root: Visitor, upstream: Upstream) -> None:
    refused = look(root, upstream.openai_base, api_key="sk-wrong-0123456789")
    assert "does not accept this key" in fault(refused, "api_key")
    assert "sk-wrong-0123456789" not in refused.text
    assert "ASCII" in fault(look(root, upstream.openai_base, api_key="two words"), "api_key")


def test_a_black_hole_is_given_up_in_time(app: Flask, upstream: Upstream) -> None:
    services = app.extensions["flaskllm"]
    probe = ProviderProbe(
        services.factory, services.provider_check, AddressRule(allow_private=True), Vault(["k"]), look_seconds=0.5
    )
    upstream.script(faults.hang(), vendor="llama", route="models")
    with pytest.raises(InvalidRequest, match=r"did not answer within 0.5 s"):
        probe.look(upstream.llama_base, None)


def test_ten_thousand_models_are_cut_told_of_and_narrowed(root: Visitor, upstream: Upstream) -> None:
    upstream.script(listing(*(f"vendor/model-{number:05}" for number in range(10_000))), vendor="llama", route="models")
    shown = look(root, upstream.llama_base)
    assert "lists 10,000 models" in words(shown)
    assert f"the first {MOST_MODELS} are shown" in words(shown)
    assert len(re.findall(r'name="models"', shown.text)) == MOST_MODELS
    assert hidden(shown)["models"] == []
    narrowed = look(root, upstream.llama_base, match="MODEL-0012")
    assert hidden(narrowed)["models"] == [f"vendor/model-0012{digit}" for digit in range(10)]
    made = root.post(ADD, {**hidden(narrowed), "provider_id": "many", "all": "1", "models": []})
    assert made.status_code == 303, words(made)
    assert len(root.services.providers.get("many").models) == 10


def test_hostile_names_are_told_as_text_and_never_taken(root: Visitor, upstream: Upstream) -> None:
    names = (
        PAYLOAD,
        "../../etc/passwd",
        "auto",
        "a\x00b",
        "x" * 5000,
        "{{ 7 * 7 }}",
        "good-one",
        "good-one",
        "",
    )
    upstream.script(listing(*names), vendor="llama", route="models")
    shown = look(root, upstream.llama_base)
    assert (shown.status_code, hidden(shown)["models"]) == (200, ["good-one"])
    assert not re.search(r"<img|<script>", shown.text)
    assert "&lt;img src=x" in shown.text
    assert "\x00" not in shown.text
    assert "7 have names that cannot be taken" in words(shown)
    forced = root.post(ADD, {**hidden(shown), "provider_id": "evil", "models": [PAYLOAD]})
    assert (forced.status_code, "choose at least one" in words(forced)) == (400, True)


def test_the_second_form_tells_its_faults_and_keeps_what_was_found(root: Visitor, upstream: Upstream) -> None:
    shown = look(root, upstream.openai_base, api_key=upstream.keys["openai"])
    form = hidden(shown)
    refused = root.post(ADD, {**form, "provider_id": "a b", "display_name": "Kept", "models": ["gpt-4o"]})
    assert "A-Z" in fault(refused, "provider_id")
    kept = hidden(refused)
    assert (kept["display_name"], kept["models"], upstream.keys["openai"] in refused.text) == (
        "Kept",
        ["gpt-4o"],
        False,
    )
    assert root.post(ADD, {**kept, "provider_id": "kept"}).status_code == 303


def test_a_sealed_key_goes_to_no_other_address_and_serves_nobody_else(
    root: Visitor, upstream: Upstream, app: Flask
) -> None:
    sealed = hidden(look(root, upstream.openai_base, api_key=upstream.keys["openai"]))["sealed"]
    upstream.reset()
    elsewhere = upstream.openai_base.replace("127.0.0.1", "localhost")
    other = Visitor.admin(app, "other")
    for visitor, base, text in (
        (root, elsewhere, sealed),
        (other, upstream.openai_base, sealed),
        (root, elsewhere, "v1.x.y"),
    ):
        refused = look(visitor, base, sealed=text)
        assert "needed once more" in fault(refused, "api_key")
    assert upstream.requests == []
    assert look(root, upstream.openai_base, sealed=sealed).status_code == 200


# -- reading a list ---------------------------------------------------------------------------------------------------


def test_lists_are_read_as_their_servers_write_them() -> None:
    rows = [
        {"id": "llama", "meta": {"n_ctx_train": 4096}}, {"id": "vllm", "max_model_len": 32768},
        {"id": "router/x", "context_length": 131072}, {"id": "whisper-1"}, {"id": "bge-m3"}, {"id": "flux/dev"},
        {"id": "m", "type": "embedding"}, {"id": "n", "type": "moderation"}, {"id": "o", "type": ["odd"]},
        {"id": "p", "context_length": -5}, {"id": 7}, "text", {"name": "no id"},
    ]  # fmt: skip
    for body in (rows, {"object": "list", "data": rows}):
        found = models_in(json.dumps(body).encode())
        assert [(one.name, one.type, one.context_window) for one in found] == [
            ("llama", "chat", 4096), ("vllm", "chat", 32768), ("router/x", "chat", 131072), ("whisper-1", None, None),
            ("bge-m3", "embedding", None), ("flux/dev", "image", None), ("m", "embedding", None), ("n", None, None),
            ("o", "chat", None), ("p", "chat", None),
        ]  # fmt: skip


@pytest.mark.parametrize(
    "address, proposed",
    [
        ("https://api.groq.com/openai/v1", "groq"), ("https://openrouter.ai/api/v1", "openrouter"),
        ("http://127.0.0.1:8000", "server-8000"), ("http://vllm:8080/v1", "server-8080"),
        ("https://api.openai.com/v1", "api-openai-com"),
    ],
)  # fmt: skip
def test_an_id_is_proposed_from_the_address(address: str, proposed: str) -> None:
    assert proposed_id(address) == proposed
