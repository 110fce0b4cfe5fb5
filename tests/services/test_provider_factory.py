"""When an adapter is built, reused, thrown away."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from flaskllm.adapters.base import ProviderAdapter
from flaskllm.domain.catalogue import Candidate, Endpoint, Model, Provider
from flaskllm.errors import InvalidRequest
from flaskllm.services.provider_factory import ProviderFactory

MODEL = Model("m", "own", "m", "m")
PROVIDER = Provider("own", "openai_compatible", endpoints=(Endpoint("main", "http://127.0.0.1:9/v1"),), models=(MODEL,))


def adapter(factory: ProviderFactory, provider: Provider) -> ProviderAdapter:
    return factory.adapter_for(Candidate(provider, MODEL, provider.endpoints[0]))


def test_a_provider_keeps_its_adapter() -> None:
    factory = ProviderFactory()
    assert adapter(factory, PROVIDER) is adapter(factory, PROVIDER)


def test_a_new_picture_that_says_the_same_keeps_the_adapter_and_its_connections() -> None:
    factory = ProviderFactory()
    before = adapter(factory, PROVIDER)
    again = replace(PROVIDER, display_name="New name", models=(MODEL, replace(MODEL, name="n")))
    assert adapter(factory, again) is before


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "ngrok"},
        {"connection": {"stream_options": False}},
        {"endpoints": (Endpoint("main", "http://127.0.0.1:10/v1"),)},
        {"timeout_s": 5.0},
    ],
)
def test_a_change_of_how_it_is_spoken_to_builds_a_new_one(change: dict[str, object]) -> None:
    factory = ProviderFactory()
    before = adapter(factory, PROVIDER)
    after = adapter(factory, replace(PROVIDER, **change))  # type: ignore[arg-type]
    assert after is not before
    assert after.provider != before.provider


def test_two_providers_of_one_kind_share_nothing() -> None:
    factory = ProviderFactory()
    one, two = adapter(factory, PROVIDER), adapter(factory, replace(PROVIDER, id="two"))
    assert one is not two
    assert one.transport is not two.transport


def test_many_threads_build_one() -> None:
    factory = ProviderFactory()
    with ThreadPoolExecutor(16) as pool:
        built = set(pool.map(lambda _: id(adapter(factory, PROVIDER)), range(64)))
    assert len(built) == 1


def test_an_unknown_kind_is_told_by_field() -> None:
    with pytest.raises(InvalidRequest) as error:
        adapter(ProviderFactory(), replace(PROVIDER, kind="no-such"))
    assert error.value.param == "provider_type"


def test_a_kind_describes_itself() -> None:
    described = ProviderFactory().describe("openai")
    assert described.key_required
    assert "api_base" in [field.name for field in described.connection]
    assert described.default_base.startswith("https://")


def test_no_vendors_package_is_imported_for_a_kind_that_needs_none() -> None:
    program = (
        "import sys; from flaskllm.services.provider_factory import ProviderFactory as F;"
        "F().describe('openai'); unwanted = {'openai', 'anthropic', 'google.genai', 'genai_prices'};"
        "print(sorted(unwanted & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
