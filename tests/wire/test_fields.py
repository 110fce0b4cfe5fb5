"""Strict fields, and faults told by name."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from marshmallow import Schema, fields

from flaskllm.errors import InvalidRequest
from flaskllm.wire.fields import Choice, Dollars, Flag, Moment, Network, Number, Several, Text, Whole, load


class Inner(Schema):
    whole = Whole(required=True)


class Document(Schema):
    text = Text(most=5, least=1)
    name = Text(most=9, pattern="[a-z]+", form="must be small letters")
    choice = Choice("a", "b")
    whole = Whole(least=0, most=9)
    number = Number(least=0, most=9)
    dollars = Dollars()
    flag = Flag()
    moment = Moment()
    several = Several(Choice("a", "b"), least=1, most=3)
    network = Network()
    inner = fields.Nested(Inner)
    inners = fields.List(fields.Nested(Inner))


def faults(**body: Any) -> list[str]:
    with pytest.raises(InvalidRequest) as refused:
        load(Document(), body)
    return [detail["field"] for detail in refused.value.details]


@pytest.mark.parametrize(
    "field, values",
    [
        ("text", [1, True, None, [], {}, "", "toolong", "a\x00", "\ud800"]),
        ("name", ["A", "a\n", "ä", "a b"]),
        ("choice", ["c", "", 1, None, ["a"]]),
        ("whole", ["1", 1.0, 1.5, True, False, None, -1, 10, 2**63, [], {}, float("inf")]),
        ("number", ["1", True, None, -0.1, 9.1, [], float("nan")]),
        ("dollars", ["1", True, None, -1, 10**10, 1e400]),
        ("flag", ["true", 1, 0, None, "yes"]),
        ("moment", ["", "now", 7, True, None, "2026-11-21", "2026-11-21T08:00:00", "9999-12-31T23:59:59+99:99",
                    "0001-01-01T00:00:00+23:59", "2026-13-01T00:00:00Z"]),
        ("several", ["a", [], ["c"], ["a", 1], ["a"] * 4, None, {"a": 1}]),
        ("network", ["", "10.0.0.1/33", "fe80::1%eth0", "somewhere", 7, None, "1" * 5000]),
    ],
)  # fmt: skip
def test_what_only_looks_like_it_is_refused(field: str, values: list[Any]):
    for value in values:
        assert faults(**{field: value})[0].startswith(field), value


@pytest.mark.parametrize(
    "field, value, read",
    [
        ("text", "äöü", "äöü"), ("choice", "b", "b"), ("whole", 9, 9), ("number", 1.5, 1.5), ("number", 2, 2),
        ("dollars", 0.1, Decimal("0.1")), ("dollars", 3, Decimal(3)), ("flag", False, False),
        ("moment", "2026-11-21T09:00:00+01:00", datetime(2026, 11, 21, 8, tzinfo=UTC)),
        ("moment", "2026-11-21T08:00:00Z", datetime(2026, 11, 21, 8, tzinfo=UTC)),
        ("several", ["b", "a", "b"], ["b", "a"]), ("network", "10.0.0.1", "10.0.0.1/32"),
        ("network", "2001:db8::/32", "2001:db8::/32"),
    ],
)  # fmt: skip
def test_what_is_sound_is_read(field: str, value: Any, read: Any):
    assert load(Document(), {field: value}) == {field: read}


def test_unknown_and_nested_fields_are_named():
    assert faults(oops=1, inner={}, inners=[{"whole": 1}, {"whole": "1"}]) == ["inner.whole", "inners[1].whole", "oops"]


def test_a_storm_of_unknown_fields_is_told_in_part():
    told = faults(**{f"{'x' * 500}{n}": 1 for n in range(1000)})
    assert len(told) == 20
    assert all(len(name) <= 80 for name in told)
