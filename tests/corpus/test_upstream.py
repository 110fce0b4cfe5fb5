"""Every case of ``upstream.json`` (providers that misbehave, plain and streamed), by its id."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from flask import Flask

from flaskllm.services.circuit_board import IN_A_ROW
from tests.conftest import MakeApp, provider_environment
from tests.corpus.harness import ASSERTIONS, UPSTREAM, Case, World, as_parameter, assertions_of, play, verify
from tests.upstream import Upstream, faults

CASES: tuple[Case, ...] = tuple(json.loads((Path(__file__).parent / "upstream.json").read_text(encoding="utf-8")))
OVERLAY = """
models:
  first: {provider: %s, model_name: %s, aliases: [demo]}
"""
PLACES: dict[str, Callable[[Upstream], str]] = {
    "connect black hole (no SYN-ACK)": lambda upstream: upstream.endpoint("black_hole"),
    "DNS failure": lambda _: "http://no-such-host.invalid",
    "TLS handshake stalls": lambda upstream: upstream.endpoint("silent").replace("http:", "https:"),
}
"""Where nobody answers; each is an address and not a behaviour."""
DOWN = "500 on every provider"
UNKNOWN_CA = "TLS certificate unknown"
GOES_ON = "upstream keeps sending after we closed"
LONGEST = "4"
"""Seconds after which we close in that case; the simulator would go on for two minutes."""
SECONDS = 2.0
"""`REQUEST_TIMEOUT` of these gateways, and half of it what a silent stream is waited for."""


@pytest.fixture
def make_world(make_app: MakeApp, upstream: Upstream, tmp_path: Path) -> Callable[..., World]:
    """A gateway whose `demo` is a provider on the simulator, or at an address of the case's."""

    def make(provider: str = "openai", model: str = "gpt-4o", **more: str) -> World:
        overlay = tmp_path / "models.yaml"
        overlay.write_text(OVERLAY % (provider, model))
        environment = provider_environment(upstream, provider) | more
        times = {"REQUEST_TIMEOUT": str(SECONDS), "STREAM_IDLE_TIMEOUT": str(SECONDS / 2)}
        app: Flask = make_app(LLM_GATEWAY_CONFIG_PATH=str(overlay), **times, **environment)
        app.test_cli_runner().invoke(args=["seed"])
        return FaultyWorld(app, upstream)

    return make


class FaultyWorld(World):
    deadline = SECONDS

    def _conversation(self, who: str, message: str) -> str:
        return ""  # these cases need none, and where nobody answers there is none

    def script(self, words: str) -> None:
        if words not in PLACES and words != UNKNOWN_CA:
            self.upstream.script(faults.CORPUS[words])


def until_left_alone(world: World) -> None:
    """The contract's 503 is for providers that are down for longer: ask until that is known."""
    world.upstream.script(faults.CORPUS[DOWN])
    asked = {"model": "demo", "messages": [{"role": "user", "content": "hi"}]}
    for _ in range(IN_A_ROW):
        world.people["user_a"].call("POST", "/v1/chat/completions", asked)
    assert len(world.upstream.requests) == IN_A_ROW
    world.upstream.reset()


@pytest.mark.parametrize("case", [as_parameter(case) for case in CASES])
def test_case(case: Case, make_world: Callable[..., World], upstream: Upstream) -> None:
    words = case["input"]["upstream"]
    if words in PLACES:
        world = make_world(OPENAI_BASE_URL=PLACES[words](upstream))
    elif words.startswith("Anthropic"):
        world = make_world("anthropic", "claude-sonnet-4-5")
    elif words == UNKNOWN_CA:
        with Upstream(tls=True) as other:
            verify(play(make_world(OPENAI_BASE_URL=other.openai_base), case), later=frozenset())
        return
    elif words == GOES_ON:
        world = make_world(STREAM_MAX_SECONDS=LONGEST)
    else:
        world = make_world()
    if words == DOWN:
        until_left_alone(world)
    played = play(world, case)
    verify(played, later=frozenset())
    if words == GOES_ON:
        assert played.seconds >= float(LONGEST)
        assert upstream.wait_idle(5), "the provider still writes to a connection that we left"


def test_each_case_stands_once_and_every_assertion_is_known() -> None:
    assert len({case["id"] for case in CASES}) == len(CASES)
    assert {name for case in CASES for name, _ in assertions_of(case)} <= (ASSERTIONS | UPSTREAM).keys()
    known = faults.CORPUS.keys() | PLACES.keys() | {UNKNOWN_CA}
    assert {case["input"]["upstream"] for case in CASES} <= known
