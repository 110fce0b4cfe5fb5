"""Models and their prices at the administrators' pages."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from flaskllm.domain.audit import SYSTEM
from flaskllm.domain.pricing import from_dollars
from tests.doors.test_admin_providers import entries, fault, own
from tests.doors.visitor import Visitor, words

NAME = "meta-llama/Llama-3.3:70b"
PAYLOAD = '"><img src=x onerror=alert(1)><script>alert(1)</script>'


@pytest.fixture
def root(app: Flask) -> Visitor:
    visitor = Visitor.admin(app)
    assert own(visitor, "http://127.0.0.1:9/v1").status_code == 303
    return visitor


def add(visitor: Visitor, **form: Any) -> TestResponse:
    return visitor.post("/admin/providers/own/~model", {"model_id": NAME, "model_type": "chat", **form})


def price(visitor: Visitor, **form: Any) -> TestResponse:
    return visitor.post("/admin/providers/own/price/model-one", {"source": "own", **form})


def form_of(visitor: Visitor, path: str) -> dict[str, Any]:
    """The settings' form as the page shows it."""
    text = visitor.get(path).text.partition("<h2>Settings")[2].partition("<h2")[0]
    found: dict[str, Any] = dict(re.findall(r'name="(\w+)" type="text" value="([^"]*)"', text))
    found |= dict(re.findall(r'<textarea id="[^"]*" name="(\w+)"[^>]*>([^<]*)', text))
    for name, options in re.findall(r'<select id="[^"]*" name="(\w+)"[^>]*>(.*?)</select>', text, re.DOTALL):
        chosen = re.search(r'value="([^"]*)" selected', options)
        found[name] = chosen[1] if chosen else ""
    for name, value in re.findall(r'type="checkbox" name="(\w+)" value="(\w+)" checked', text):
        found.setdefault(name, []).append(value)
    return found


def test_a_model_is_added_with_all_that_can_be_said_of_it(root: Visitor) -> None:
    made = add(
        root, display_name="Llama", context_window="131072", max_tokens="8192", backend_model="llama-70b", tier="large",
        tier_head="1", aliases="big\nbigger", capabilities=["tools", "reasoning"], timeout_s="120", enabled="true",
        params="top_k: drop\nmax_tokens: max_output", training_data="Dec 2024", description="ours",
    )  # fmt: skip
    assert made.status_code == 303, words(made)
    row = root.services.provider_models.get("own", NAME)
    assert (row.context_window, row.max_tokens, row.backend_model, row.tier, row.tier_head, row.timeout_s) == (
        131072, 8192, "llama-70b", "large", True, 120.0,
    )  # fmt: skip
    assert (row.aliases, row.abilities, row.params) == (
        ["big", "bigger"], ["tools", "reasoning"], {"top_k": "drop", "max_tokens": "max_output"},
    )  # fmt: skip
    assert (entries(root)[0].action, entries(root)[0].target) == ("model.create", f"model:own/{NAME}")
    address = made.headers["Location"]
    before = entries(root)[0].number
    assert root.post(address, form_of(root, address)).status_code == 303
    assert entries(root)[0].number == before
    assert "own/" + NAME in words(root.get(address))


@pytest.mark.parametrize(
    "field, value",
    [
        ("model_id", ""), ("model_id", "a//b"), ("model_id", "auto"), ("model_id", "model-one"),
        ("context_window", "big"), ("max_tokens", "0"), ("backend_model", "two words"), ("tier", "huge"),
        ("model_type", "song"), ("aliases", "model-two"), ("timeout_s", "-1"), ("params", "no rule"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_at_its_field_and_nothing_is_made(root: Visitor, field: str, value: str) -> None:
    refused = add(root, **{"display_name": "Kept words", field: value})
    assert refused.status_code in (400, 409), words(refused)
    if field in ("tier", "model_type"):
        assert f'id="e-{field}"' in refused.text
    else:
        assert fault(refused, field)
    assert 'value="Kept words"' in refused.text
    assert [model.name for model in root.services.provider_models.of("own")] == ["model-one", "model-two"]
    assert entries(root)[0].action == "model.create.refused"


def test_a_model_is_changed_switched_off_and_deleted(root: Visitor) -> None:
    path = "/admin/providers/own/models/model-one"
    changed = root.post(path, {**form_of(root, path), "context_window": "4096", "capabilities": ["tools"]})
    assert changed.status_code == 303, words(changed)
    assert set(json.loads(entries(root)[0].after)) == {"context_window", "capabilities"}
    refused = root.post(path, {**form_of(root, path), "display_name": "", "context_window": "none"})
    assert (refused.status_code, bool(fault(refused, "context_window")), bool(fault(refused, "display_name"))) == (
        400, True, True,
    )  # fmt: skip
    assert root.post("/admin/providers/own/switch-model/model-one", {"enabled": "false"}).status_code == 303
    assert "off" in words(root.get("/admin/providers/own/models"))
    assert not root.services.provider_models.get("own", "model-one").enabled
    assert root.sure("/admin/providers/own/delete-model/model-one").status_code == 303
    assert root.get(path, status=404).mimetype == "text/html"
    assert root.post("/admin/providers/nobody/~model", {"model_id": "x"}).status_code == 404


def test_the_default_model_is_not_switched_off_and_the_page_says_why(root: Visitor) -> None:
    root.services.providers.change("own", {"default_model": "model-one"}, SYSTEM)
    refused = root.post("/admin/providers/own/switch-model/model-one", {"enabled": "false"})
    assert (refused.status_code, "is the default model" in words(refused)) == (409, True)


def test_the_list_is_paged_and_shows_prices_in_force(root: Visitor) -> None:
    price(root, inputValue="2.5", outputValue="10")
    first = root.get("/admin/providers/own/models?limit=1")
    assert ("2.5 10" in words(first), "model-two" in words(first)) == (True, False)
    following = re.search(r'class="button" href="([^"]*after=[^"]*)"', first.text)
    assert following is not None
    assert "model-two" in words(root.get(following[1]))
    assert "No models" in words(root.get("/admin/providers/own/models?after=nobody"))


# -- prices -----------------------------------------------------------------------------------------------------------


def test_a_price_holds_at_once_or_from_a_day_on_and_the_history_says_what_held_when(root: Visitor) -> None:
    assert price(root, inputValue="0.5", outputValue="1.5").status_code == 303
    later = (datetime.now(UTC) + timedelta(days=40)).date().isoformat()
    assert price(root, inputValue="0.25", outputValue="1", cacheReadValue="0.05", begins=later).status_code == 303
    rows = re.findall(r"<tr>(.*?)</tr>", root.get("/admin/providers/own/models/model-one").text, re.DOTALL)
    told = [" ".join(re.sub(r"<[^>]*>", " ", row).split()) for row in rows][1:]
    assert [word in told[0] for word in (later, "to come", "0.25", "cache read 0.05")] == [True] * 4
    assert ["in force" in told[1], "0.5 1.5" in told[1], later in told[1]] == [True] * 3
    provider = root.services.catalogue.current().by_id["own"]
    assert provider.model("model-one").price.input == from_dollars(0.5)
    after = json.loads(entries(root)[0].after)["prices_of_model-one"]
    assert after["valid_from"].startswith(later)


def test_the_form_shows_the_price_in_force_for_a_million_tokens(root: Visitor) -> None:
    token = {"inputValue": 0.002, "outputValue": 0.004}
    sized = [{"pixel": {"width": 64, "height": 64, "value": 0.01}}]
    prices = [{"unitOfMeasure": 1000, "currency": "USD", "token": token}, *sized]
    root.services.provider_models.change("own", "model-one", {"prices": prices}, SYSTEM)
    text = root.get("/admin/providers/own/models/model-one").text
    assert re.search(r'name="inputValue" type="text" value="2"', text)
    assert re.search(r'name="outputValue" type="text" value="4"', text)
    assert "64x64 0.01" in text


def test_images_by_size_an_unknown_price_and_the_price_book(root: Visitor) -> None:
    price(root, pixels="1024x1024 hd 0.08\n512×512 0.02")
    assert root.services.provider_models.get("own", "model-one").prices == [
        {"currency": "USD", "pixel": {"width": 1024, "height": 1024, "quality": "hd", "value": 0.08}},
        {"currency": "USD", "pixel": {"width": 512, "height": 512, "value": 0.02}},
    ]
    assert price(root, source="unknown").status_code == 303
    assert root.services.provider_models.get("own", "model-one").prices == []
    assert price(root, source="book").status_code == 303
    assert root.services.provider_models.get("own", "model-one").prices is None


def test_a_price_that_is_typed_and_not_chosen_is_never_dropped_without_a_word(root: Visitor) -> None:
    refused = price(root, source="book", inputValue="2")
    assert (refused.status_code, "prices are typed below" in words(refused)) == (400, True)
    assert 'value="2"' in refused.text
    assert price(root, inputValue="2").status_code == 303
    assert price(root, source="book", inputValue="2").status_code == 303  # the form came filled in
    assert root.services.provider_models.get("own", "model-one").prices is None


@pytest.mark.parametrize(
    "field, value",
    [
        ("inputValue", "cheap"), ("outputValue", "-1"), ("reasoningValue", "99999999"), ("pixels", "large 3"),
        ("begins", "2001-01-01"), ("begins", "soon"),
    ],
)  # fmt: skip
def test_a_price_that_cannot_be_is_told_at_its_field(root: Visitor, field: str, value: str) -> None:
    refused = price(root, **{"inputValue": "1", "cacheReadValue": "0.7", field: value})
    assert refused.status_code == 400, words(refused)
    assert fault(refused, field)
    assert 'value="0.7"' in refused.text
    assert fault(price(root), "inputValue")  # none is said at all
    assert root.services.provider_models.get("own", "model-one").prices is None


def test_what_was_stored_is_shown_as_it_is_and_never_as_markup(root: Visitor) -> None:
    assert add(root, display_name=PAYLOAD, description=PAYLOAD, training_data=PAYLOAD[:60]).status_code == 303
    pages = [root.get(f"/admin/providers/own/models/{NAME}"), root.get("/admin/providers/own/models")]
    pages.append(add(root, model_id=PAYLOAD, aliases=PAYLOAD, params=PAYLOAD))
    pages.append(price(root, pixels=PAYLOAD, begins=PAYLOAD, inputValue=PAYLOAD))
    for shown in pages:
        assert not re.search(r"<img|<script>", shown.text)
    assert [shown.status_code for shown in pages] == [200, 200, 400, 400]
