"""Parameters of a connection, by what an adapter says of itself: one with a field of each type."""

from __future__ import annotations

from typing import Any

import pytest

from flaskllm.adapters.base import Field
from flaskllm.errors import InvalidRequest
from flaskllm.services.provider_connection import AddressRule, ConnectionRule, shown

FIELDS = (
    Field("api_base", required=True),
    Field("timeout_s", float),
    Field("region"),
    Field("retries", int),
    Field("weight", float),
    Field("beta", bool),
    Field("names", dict),
    Field("session", secret=True),
)
RULE = ConnectionRule("acme", FIELDS, AddressRule(allow_private=False))
HERE = {"api_base": "https://acme.example/v1"}


def faults(sent: dict[str, Any], held: dict[str, Any] | None = None) -> list[str]:
    with pytest.raises(InvalidRequest) as told:
        RULE.merged(HERE if held is None else held, sent, complete=True)
    return [detail["field"].removeprefix("connection_params.") for detail in told.value.details]


def test_each_type_is_taken_as_it_is() -> None:
    sent = {"timeout_s": 5, "region": "eu", "retries": 2, "weight": 0.5, "beta": True, "names": {"a": "b"}}
    assert RULE.merged(HERE, sent, complete=True) == {**HERE, **sent}


BAD: list[tuple[str, Any]] = [
    ("region", 1), ("region", "é"), ("region", "a\nb"), ("retries", 1.0), ("retries", True), ("retries", 2**60),
    ("weight", 10**400), ("weight", "1"), ("weight", float("inf")), ("weight", 0), ("beta", 1), ("names", []),
    ("names", {"a": 1}), ("names", {"": "b"}), ("names", {"a": ""}), ("timeout_s", 601),
    ("nonsense", 1), ("session", "clear text"),
]  # fmt: skip


@pytest.mark.parametrize("name, value", BAD)
def test_another_type_is_named(name: str, value: Any) -> None:
    assert faults({name: value}) == [name]


def test_every_fault_is_told_at_once() -> None:
    assert faults({"region": 1, "retries": "x", "timeout_s": -1}) == ["region", "retries", "timeout_s"]


def test_what_is_required_may_not_be_taken_out() -> None:
    assert faults({"api_base": None}) == ["api_base"]
    assert faults({"api_base": ""}) == ["api_base"]
    assert RULE.merged(HERE, {"api_base": None}, complete=False) == {}


def test_a_secret_parameter_is_a_mask_in_documents() -> None:
    assert shown({"session": "clear", "region": "eu"}, FIELDS) == {"session": "••••", "region": "eu"}


def test_an_address_is_kept_as_every_reader_sees_it() -> None:
    kept = RULE.merged({}, {"api_base": "HTTPS://Bücher.Example:443/v1/"}, complete=True)
    assert kept == {"api_base": "https://xn--bcher-kva.example/v1"}
