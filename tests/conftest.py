"""What every test stands on: a fresh gateway on its own database, the simulator, and sockets that stay home."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.routing import Rule

from flaskllm.app import create_app
from flaskllm.config import Settings
from flaskllm.wiring import prepare_database
from tests import canaries
from tests.actors import Caller
from tests.applications import dispose
from tests.upstream import Upstream

LOOPBACK = ("127.", "::1", "localhost")


def _stay_home(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "socket.connect":
        return
    address = arguments[1]
    if isinstance(address, tuple) and not str(address[0]).startswith(LOOPBACK):
        raise RuntimeError(f"a test tried to leave loopback: {address[0]}")


sys.addaudithook(_stay_home)


def _builders_once(compile_builder: Callable[..., Any]) -> Callable[..., Any]:
    """werkzeug compiles two functions for each rule of each application; they hang on the rule's text alone.

    A gateway is made in 9 ms with this and 47 without, and the tests make thousands.
    """
    known: dict[Any, Any] = {}

    def compiled(rule: Rule, append_unknown: bool = True) -> Any:
        defaults = tuple(sorted((rule.defaults or {}).items()))
        key = (rule.rule, rule.subdomain, rule.host, defaults, append_unknown)
        if key not in known:
            known[key] = compile_builder(rule, append_unknown)
        return known[key]

    return compiled


Rule._compile_builder = _builders_once(Rule._compile_builder)  # type: ignore[method-assign]

MakeApp = Callable[..., Flask]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A test that lacks a server is skipped on a person's machine; in CI a skipped test has not been run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") == "true" and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """The million objects of ten thousand collected tests stay for good: no later search for garbage looks at them.

    A full one takes 0.7 s of CPU with them, and there is one every sixteen tests; and collecting is all growth.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.set_threshold(5000)  # 700 would be a full search every five tests, now that what was there counts no more
        gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where processes share the tests file by file, the files that take longest begin: none is left over at the end."""
    if hasattr(config, "workerinput"):
        items.sort(
            key=lambda item: sum(item.get_closest_marker(name) is not None for name in ("e2e", "slow")), reverse=True
        )


def plain_environment(folder: Path, **more: str) -> dict[str, str]:
    """The environment of a gateway that knows nothing of this machine's."""
    return {
        "ENVIRONMENT": "testing",
        "INSTANCE_PATH": str(folder / "instance"),
        "LOG_DIR": str(folder / "logs"),
        "RATE_LIMIT_PER_MINUTE": "100000",
        "EXTERNAL_PRIVATE_HOSTS": "127.0.0.1",
        **more,
    }


def provider_environment(upstream: Upstream, *ids: str) -> dict[str, str]:
    """Keys and addresses that put these providers on the simulator; without ids, all of them."""
    east, east_key = upstream.azure_region("east")
    every = {
        "openai": {"OPENAI_API_KEY": upstream.keys["openai"], "OPENAI_BASE_URL": upstream.openai_base},
        "azure_openai": {"AZURE_OPENAI_EAST_US_API_KEY": east_key, "AZURE_OPENAI_EAST_US_ENDPOINT": east},
        "anthropic": {"ANTHROPIC_API_KEY": upstream.keys["anthropic"], "ANTHROPIC_BASE_URL": upstream.anthropic_base},
        "gemini": {"GEMINI_API_KEY": upstream.keys["gemini"], "GEMINI_BASE_URL": upstream.gemini_base},
        "grok": {"GROK_API_KEY": upstream.keys["grok"], "GROK_BASE_URL": upstream.grok_base},
        "ngrok": {"NGROK_API_KEY": upstream.keys["ngrok"], "NGROK_BASE_URL": upstream.ngrok_base},
        "llama": {"LLAMA_API_URL": upstream.llama_base},
    }
    return {name: value for known in ids or every for name, value in every[known].items()}


@pytest.fixture(scope="session")
def template_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated and seeded SQLite file; every test takes a copy."""
    folder = tmp_path_factory.mktemp("template")
    app = create_app(Settings.load(plain_environment(folder, LOG_DIR=""), root=folder))
    prepare_database(app)
    dispose(app)
    return folder / "instance" / "app.db"


@pytest.fixture
def make_app(tmp_path: Path, template_database: Path) -> Iterator[MakeApp]:
    """``make_app(NAME="value", …)``: a gateway with these settings on its own database."""
    made: list[Flask] = []

    def make(**environment: str) -> Flask:
        folder = tmp_path / f"app{len(made)}"
        (folder / "instance").mkdir(parents=True)
        shutil.copy(template_database, folder / "instance" / "app.db")
        app = create_app(Settings.load(plain_environment(folder, **environment), root=folder))
        made.append(app)
        return app

    yield make
    for number, app in enumerate(made):
        dispose(app)
        canaries.check(tmp_path / f"app{number}")


@pytest.fixture
def drained(make_app: MakeApp) -> Iterator[None]:
    """Abandoned streams are read on in threads of their own; they end before the gateway does."""
    yield
    for thread in threading.enumerate():
        if thread.name == "drain":
            thread.join(10)


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    return make_app()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture(scope="session")
def simulator() -> Iterator[Upstream]:
    with Upstream() as running:
        yield running


@pytest.fixture
def upstream(simulator: Upstream) -> Iterator[Upstream]:
    """The provider simulator, with nothing scripted and nothing remembered."""
    simulator.reset()
    yield simulator
    simulator.reset()


@pytest.fixture
def gateway(make_app: MakeApp, upstream: Upstream) -> Flask:
    """A gateway with every provider on the simulator."""
    return make_app(**provider_environment(upstream))


@pytest.fixture
def caller(app: Flask) -> Caller:
    """Somebody with an API token on the plain gateway, where only `demo` answers."""
    return Caller.on(app)
