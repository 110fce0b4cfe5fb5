"""One real call, against the simulator, and what is said of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from flaskllm.errors import NotFound
from flaskllm.services.provider_check import CheckReport, ProviderCheck
from tests.services.catalogue_world import world
from tests.upstream import Upstream, faults


@pytest.fixture(scope="module")
def vendor() -> Iterator[Upstream]:
    with Upstream() as running:
        yield running


def check(tmp_path: Path, provider_id: str, **environment: str) -> CheckReport:
    here = world(tmp_path, **environment)
    with closing(here.factory):
        return ProviderCheck(here.router, here.factory).run(provider_id)


def openai_at(vendor: Upstream, key: str | None = None) -> dict[str, str]:
    vendor.reset()
    return {"OPENAI_API_KEY": key or vendor.keys["openai"], "OPENAI_BASE_URL": vendor.openai_base}


def test_what_works_says_so_and_how_fast(tmp_path: Path, vendor: Upstream) -> None:
    report = check(tmp_path, "openai", **openai_at(vendor))
    assert report.works
    assert report.message.startswith("It works")
    assert report.seconds is not None


def test_a_wrong_key_is_told_in_plain_words_and_not_shown(tmp_path: Path, vendor: Upstream) -> None:
    report = check(tmp_path, "openai", **openai_at(vendor, key="sk-wrong-canary-0123456789"))
    assert not report.works
    assert "does not accept the key" in report.message
    assert "canary" not in report.message


def test_a_spent_limit_is_told(tmp_path: Path, vendor: Upstream) -> None:
    environment = openai_at(vendor)
    vendor.script(faults.status(429, retry_after=2), vendor="openai", times=1)
    assert "rate limit or quota" in check(tmp_path, "openai", **environment).message


def test_nobody_there_is_told(tmp_path: Path) -> None:
    assert "cannot be reached" in check(tmp_path, "llama", LLAMA_API_URL="http://127.0.0.1:1/v1").message


def test_demo_always_works(tmp_path: Path) -> None:
    assert check(tmp_path, "demo").works


def test_a_provider_that_is_off_names_its_switch(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="GROK_API_KEY"):
        check(tmp_path, "grok")
