"""Connections end with the test that opened them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.adapters.candidates import close_all


@pytest.fixture(autouse=True)
def connections_end() -> Iterator[None]:
    yield
    close_all()
