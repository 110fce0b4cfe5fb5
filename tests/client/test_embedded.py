"""The gateway in the same process, under S5's names."""

from __future__ import annotations

import asyncio
import logging
import re
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from flaskllm import client as library
from flaskllm.client import (
    ConfigLoader,
    InterventionContext,
    LLMConfig,
    LLMGatewayClient,
    LLMRequest,
    ProviderFactory,
)
from tests.conftest import plain_environment, provider_environment
from tests.upstream import Upstream, faults

ROOT = Path(__file__).parent.parent.parent
PRINTED = ROOT / "tests" / "seeds" / "examples" / "s5_in_process.py.txt"


def client_of(folder: Path, **environment: str) -> LLMGatewayClient:
    loader = ConfigLoader(folder, plain_environment(folder, **environment))
    return LLMGatewayClient(loader.load_config_as_object(), ProviderFactory())


def asked(text: str = "Hello, world!", model: str | None = "demo", **more: Any) -> LLMRequest:
    return LLMRequest(prompt_content=text, config=LLMConfig(model_identifier=model, **more))


def test_seed_5s_snippet_runs_with_only_its_imports_changed(tmp_path: Path, upstream: Upstream) -> None:
    printed = PRINTED.read_text()
    imports = re.findall(r"^from asf\.medical\.llm_gateway\.core\.\w+ import (.+)$", printed, re.MULTILINE)
    body = re.sub(r"^from asf\..*\n", "", printed, flags=re.MULTILINE)
    program = f"from flaskllm.client import {', '.join(imports)}\n" + "import asyncio\n\nasync def main():\n"
    program += "".join(f"    {line}\n" for line in body.splitlines()) + "\nasyncio.run(main())\n"
    upstream.script(faults.text("Hello from the model."))
    openai = provider_environment(upstream, "openai")
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=plain_environment(tmp_path, **openai),
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == "Hello from the model.\n"
    assert upstream.requests[-1].body["model"] == "gpt-4-turbo"  # which bears that alias


def test_it_is_the_same_gateway(tmp_path: Path, upstream: Upstream) -> None:
    """Routing, fall-back, ledger and prices are those of the server."""
    upstream.script(faults.status(500), times=1)
    with client_of(tmp_path, **provider_environment(upstream, "openai", "azure_openai")) as client:
        request = LLMRequest(
            prompt_content="one two",
            config=LLMConfig(model_identifier="gpt-4o", system_prompt="Be brief.", temperature=0.5),
            initial_context=InterventionContext(
                session_id="example-session", history=[{"role": "user", "content": "before"}]
            ),
        )
        response = client.generate_sync(request)
        assert response.generated_content
        assert response.cost is not None
        assert response.cost > 0
        sent = upstream.requests[-1].body
        assert [message["role"] for message in sent["messages"]] == ["system", "user", "user"]
        assert sent["temperature"] == 0.5
    with sqlite3.connect(tmp_path / "instance" / "app.db") as database:
        row = database.execute("SELECT door, status, attempts, metadata FROM calls").fetchall()
    assert row == [("python", 200, 2, '{"session_id": "example-session"}')]


def test_it_streams(tmp_path: Path) -> None:
    async def pieces() -> list[str]:
        async with client_of(tmp_path) as client:
            return [piece async for piece in client.stream(asked("a b c"))]

    assert "".join(asyncio.run(pieces())) == "[demo] a b c"
    assert len(asyncio.run(pieces())) > 1


def test_many_at_once(tmp_path: Path) -> None:
    async def all_at_once() -> list[str]:
        async with client_of(tmp_path) as client:
            answers = await asyncio.gather(*(client.generate(asked(f"number {n}")) for n in range(10)))
            return [answer.generated_content for answer in answers]

    assert asyncio.run(all_at_once()) == [f"[demo] number {n}" for n in range(10)]


def test_errors_are_those_of_the_client(tmp_path: Path) -> None:
    with client_of(tmp_path) as client:
        with pytest.raises(library.NotFound) as missing:
            client.generate_sync(asked(model="nowhere"))
        assert missing.value.request_id
        with pytest.raises(library.NotFound):
            list(client.stream_sync(asked(model="nowhere")))


def test_what_is_given_to_the_factory_goes_before_the_settings(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        ProviderFactory(verfy=False)
    built = ProviderFactory(verify=False)(verify=True, pool_size=3)
    assert (built._verify, built._pool_size) == (False, 3)


def test_it_leaves_the_programs_logging_alone(tmp_path: Path) -> None:
    before = list(logging.getLogger().handlers)
    with client_of(tmp_path) as client:
        client.generate_sync(asked())
    assert logging.getLogger().handlers == before


def test_closing_ends_its_threads(tmp_path: Path) -> None:
    before = threading.active_count()
    with client_of(tmp_path) as client:
        client.generate_sync(asked())
    assert threading.active_count() <= before + 1
