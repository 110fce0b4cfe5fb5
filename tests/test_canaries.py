"""The watch over secrets sees what it is there for."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests import canaries
from tests.conftest import MakeApp
from tests.people import PASSWORD
from tests.upstream.server import CANARY_KEYS

TOKEN = "fl_" + "a" * 49
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N"


@pytest.mark.parametrize(
    "secret", [*CANARY_KEYS.values(), TOKEN, JWT, PASSWORD, "Bearer abcdefghijkl", "made-for-this"]
)
@pytest.mark.parametrize("name", ["logs/app.log", "logs/error.log.1", "server.out", "instance/app.db-wal"])
def test_a_secret_in_a_file_is_found_and_not_repeated(tmp_path: Path, name: str, secret: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"\x00before " + secret.encode() + b" after\xff")
    with pytest.raises(AssertionError, match=Path(name).name) as failure:
        canaries.check(tmp_path, more=["made-for-this"])
    assert secret not in str(failure.value)


def test_the_secrets_that_a_gateway_keeps_are_watched_too(tmp_path: Path) -> None:
    (tmp_path / "instance").mkdir()
    (tmp_path / "instance" / "secret_key").write_text("kept-by-the-gateway\n")
    (tmp_path / "server.out").write_text("kept-by-the-gateway")
    with pytest.raises(AssertionError, match="secret_key"):
        canaries.check(tmp_path)


def test_a_harmless_folder_passes(tmp_path: Path) -> None:
    (tmp_path / "server.out").write_text("Authorization: Bearer, as in the header WWW-Authenticate")
    canaries.check(tmp_path)


def test_the_files_that_are_watched_are_the_ones_that_are_written(make_app: MakeApp, tmp_path: Path) -> None:
    make_app()
    logging.getLogger("flaskllm").warning("something happened")
    names = {path.name for path in canaries.written_by(tmp_path / "app0")}
    assert {"app.log", "error.log", "app.db"} <= names
