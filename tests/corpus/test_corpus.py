"""Every case of ``doors.json``, by its id; none waits for a door."""

from __future__ import annotations

import pytest
from flask import Flask

from tests.conftest import MakeApp, provider_environment
from tests.corpus.harness import (
    ASSERTIONS,
    CASES,
    MODEL_SAYS,
    Case,
    World,
    as_parameter,
    assertions_of,
    is_ours,
    play,
    verify,
)
from tests.upstream import Upstream

PLAYED = [as_parameter(case) for case in CASES]


@pytest.mark.parametrize("case", PLAYED)
def test_case(case: Case, make_app: MakeApp, upstream: Upstream) -> None:
    environment = provider_environment(upstream, "openai") if "upstream" in case["input"] else {}
    verify(play(World(make_app(**environment), upstream), case))


def test_no_case_waits_for_its_door(app: Flask) -> None:
    assert not [case["id"] for case in CASES if not is_ours(app, case)]


def test_each_case_stands_once_and_every_assertion_is_known() -> None:
    assert len({case["id"] for case in CASES}) == len(CASES)
    assert {name for case in CASES for name, _ in assertions_of(case)} == ASSERTIONS.keys()
    assert {case["input"]["upstream"] for case in CASES if "upstream" in case["input"]} == MODEL_SAYS.keys()
