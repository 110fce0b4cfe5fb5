"""Two providers for one alias, `both`: `openai` is asked first, `llama` after it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from flask import Flask

from tests.conftest import MakeApp, provider_environment
from tests.upstream import Upstream, faults

OVERLAY = """
models:
  first: {provider: openai, model_name: gpt-4o, aliases: [both], timeout_s: %s}
  second: {provider: llama, model_name: second, aliases: [both]}
"""
FIRST_FAILS = {
    "fails": faults.status(500),
    "hangs for 3 s": faults.delay(3),
    "hangs before its first frame": faults.first_delay(30),
    "breaks off before its first frame": faults.eof(),
    "breaks off after its headers": faults.eof_after(0),
    "resets": faults.reset(),
    "rejects our key": faults.status(401),
    "is limited": faults.status(429),
    "sends an error first": faults.error_in_200(),
    "sends a page": faults.html(),
}


def two_providers(
    make_app: MakeApp, upstream: Upstream, folder: Path, *, patience: float | None = 0.5, **environment: str
) -> Flask:
    """A gateway with both on the simulator; the first is waited for ``patience`` seconds."""
    overlay = folder / "models.yaml"
    overlay.write_text(OVERLAY % ("null" if patience is None else patience))
    both = provider_environment(upstream, "openai", "llama")
    app = make_app(LLM_GATEWAY_CONFIG_PATH=str(overlay), **(both | environment))
    app.test_cli_runner().invoke(args=["seed"])
    return app


def read_events(raw: bytes) -> list[tuple[str, Any]]:
    """The events of a conversation's stream: names and data."""
    found = re.findall(r"event: (\w+)\ndata: (.*)\n\n", raw.decode())
    return [(name, json.loads(data)) for name, data in found]
