"""The official SDKs and LangChain, each in an environment of its own, unchanged but for address and key.

The programs stand in ``sdks/``; each tells what it tried in lines of JSON. Their environments are made from locks,
once, in ``.sdks/``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import provider_environment
from tests.e2e.environments import HERE, made_once
from tests.e2e.servers import Gateway, gunicorn
from tests.upstream import RemoteUpstream

pytestmark = pytest.mark.e2e
CHAT = [
    "openai/gpt-4o",
    "azure_openai/gpt-4o",
    "claude-haiku-4-5",
    "gemini/gemini-2.5-flash",
    "llama/llama-7b-instruct",
    "demo",
]
PLAN = {
    "chat": CHAT,
    "embed": ["openai/text-embedding-3-small", "azure_openai/text-embedding-ada-002", "gemini-embedding-001", "demo"],
    "draw": ["gpt-image-1-mini", "azure_openai/dall-e-3", "gemini-2.5-flash-image", "grok-imagine-image", "demo"],
}
PROGRAMS = {
    "openai_python.py": "python-openai",
    "openai_node.mjs": "node-openai",
    "anthropic_python.py": "python-anthropic",
    "anthropic_node.mjs": "node-anthropic",
    "langchain_python.py": "python-langchain",
}


@pytest.fixture(scope="module")
def gateway(remote_simulator: RemoteUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    remote_simulator.reset()
    environment = provider_environment(remote_simulator)  # type: ignore[arg-type]
    with gunicorn(tmp_path_factory.mktemp("sdks"), WEB_CONCURRENCY="1", **environment) as running:
        yield running


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_sdk_works_unchanged(program: str, gateway: Gateway) -> None:
    command = command_of(program, PROGRAMS[program])
    environment = {"PATH": os.environ["PATH"], "GATEWAY": gateway.url, "TOKEN": gateway.token()}
    done = subprocess.run(
        [*command, json.dumps(PLAN)], env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    told: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    faults = [f"{one['check']} with {one['model']}:\n{one['fault']}" for one in told if one["fault"]]
    assert done.returncode == 0, done.stderr[-3000:]
    assert not faults, f"{len(faults)} of {len(told)}:\n\n" + "\n\n".join(faults)
    assert len(told) == expected(program), [f"{one['check']} {one['model']}" for one in told]


def expected(program: str) -> int:
    """As many lines as the program has checks for the models of their kind: none was left out in silence."""
    text = (HERE / program).read_text()
    marks = {"python": '@check("%s")', "node": 'check("%s", '}["node" if program.endswith(".mjs") else "python"]
    return sum(text.count(marks % kind) * len(models) for kind, models in {**PLAN, "once": ["-"]}.items())


# -- environments -----------------------------------------------------------------------------------------------------


def command_of(program: str, environment: str) -> list[str]:
    made = made_once(environment)
    if environment.startswith("python"):
        return [str(made / "bin" / "python"), str(HERE / program)]
    for file in (program, "harness.mjs"):  # Node looks for packages from where the program stands
        shutil.copy(HERE / file, made / file)
    return ["node", str(made / program)]
