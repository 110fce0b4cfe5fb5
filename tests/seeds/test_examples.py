"""S3's four examples and S5's two as they are printed, against a live server: only address and token are replaced."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from werkzeug.serving import make_server

from tests.actors import access_token
from tests.conftest import MakeApp, provider_environment
from tests.upstream import Upstream, faults

EXAMPLES = Path(__file__).parent / "examples"
TOKEN = "a-token-of-the-operators-own-0123456789"
SUMMARY = "The company plans to reduce hiring to cut costs."
ANNOTATIONS = re.compile(r": (?:string|Promise(?:<\w+>)?)(?=[,)\s])")
"""What TypeScript adds to JavaScript in the printed Office Script."""


@dataclass
class Live:
    """A gateway on a port of its own, and an administrator's credential there."""

    url: str
    admin: str

    def example(self, name: str) -> str:
        """The example with our address and token in the place of the printed ones."""
        printed = (EXAMPLES / name).read_text()
        for address in ("http://localhost:5000", "http://localhost:8000", "https://yourusername.pythonanywhere.com"):
            printed = printed.replace(address, self.url)
        return printed.replace("your_api_token", TOKEN)


@pytest.fixture
def live(make_app: MakeApp, upstream: Upstream) -> Iterator[Live]:
    upstream.script(faults.text(SUMMARY))
    app = make_app(**provider_environment(upstream, "openai"), API_TOKEN=TOKEN)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield Live(f"http://127.0.0.1:{server.server_port}", access_token(app, "root", admin=True))
    server.shutdown()
    thread.join(5)
    server.server_close()


def run(*command: str, stdin: str | None = None) -> str:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_curl(live: Live) -> None:
    assert f'"summary":"{SUMMARY}"' in run("bash", "-c", live.example("webhook.sh"))


def test_python_requests(live: Live) -> None:
    pytest.importorskip("requests")
    assert run(sys.executable, "-", stdin=live.example("webhook.py.txt")) == SUMMARY


def test_javascript_fetch(live: Live) -> None:
    assert run("node", "-", stdin=live.example("webhook.js")) == SUMMARY


def test_the_office_script(live: Live) -> None:
    script = ANNOTATIONS.sub("", live.example("office_script.ts"))
    use = 'ProcessEmail("We will meet on Tuesday.").then((summary) => console.log(summary));'
    assert run("node", "-", stdin=f"{script}\n{use}") == SUMMARY


def test_the_office_script_of_a_bad_token_says_so(live: Live) -> None:
    script = ANNOTATIONS.sub("", live.example("office_script.ts")).replace(TOKEN, "another")
    use = 'ProcessEmail("We will meet on Tuesday.").catch((error) => console.log(error.message));'
    assert run("node", "-", stdin=f"{script}\n{use}") == "API error: 401"


WITH_TOKEN = """
import requests as library
requests = library.Session()
requests.headers["Authorization"] = "Bearer {token}"
"""
"""S5 prints no credential; each of its requests carries this one."""


def with_token(live: Live, name: str) -> str:
    return live.example(name).replace("import requests\n", WITH_TOKEN.format(token=live.admin))


def test_seed_5s_providers(live: Live) -> None:
    pytest.importorskip("requests")
    see = """
print(created_provider["display_name"], created_provider["models"][0]["model_id"], created_provider["api_key"])
print(updated_provider["display_name"], [one["provider_id"] for one in providers if one["on"]], response.status_code)
"""
    created, updated = run(sys.executable, "-", stdin=with_token(live, "providers.py.txt") + see).splitlines()
    assert created.startswith("Anthropic claude-3-opus-20240229 {")
    assert "your-api-key" not in created
    assert updated == "Anthropic AI ['openai', 'demo'] 204"


def test_seed_5s_models(live: Live) -> None:
    pytest.importorskip("requests")
    see = """
print(created_model["display_name"], created_model["context_window"], len(models) > 10)
print(updated_model["display_name"], updated_model["context_window"], response.status_code)
"""
    told = run(sys.executable, "-", stdin=with_token(live, "models.py.txt") + see).splitlines()
    assert told == ["GPT-4o 128000 True", "GPT-4o (2024) 256000 204"]
