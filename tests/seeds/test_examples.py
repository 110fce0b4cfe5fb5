"""S3's four examples as they are printed, run against a live server: only address and token are replaced."""

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

from tests.conftest import MakeApp, provider_environment
from tests.upstream import Upstream, faults

EXAMPLES = Path(__file__).parent / "examples"
TOKEN = "a-token-of-the-operators-own-0123456789"
SUMMARY = "The company plans to reduce hiring to cut costs."
ANNOTATIONS = re.compile(r": (?:string|Promise(?:<\w+>)?)(?=[,)\s])")
"""What TypeScript adds to JavaScript in the printed Office Script."""


@dataclass
class Live:
    """A gateway on a port of its own."""

    url: str

    def example(self, name: str) -> str:
        """The example with our address and token in the place of the printed ones."""
        printed = (EXAMPLES / name).read_text()
        for address in ("http://localhost:5000", "https://yourusername.pythonanywhere.com"):
            printed = printed.replace(address, self.url)
        return printed.replace("your_api_token", TOKEN)


@pytest.fixture
def live(make_app: MakeApp, upstream: Upstream) -> Iterator[Live]:
    upstream.script(faults.text(SUMMARY))
    app = make_app(**provider_environment(upstream, "openai"), API_TOKEN=TOKEN)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield Live(f"http://127.0.0.1:{server.server_port}")
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
