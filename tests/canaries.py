"""What must never be written down: the secrets that tests hand out, looked for in logs and databases."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from flaskllm.domain import api_token
from tests.people import NEW_PASSWORD, PASSWORD
from tests.upstream.server import CANARY_KEYS

PASSWORDS = (PASSWORD, NEW_PASSWORD, "Password456")
KEPT = ("secret_key", "jwt_secret_keys", "encryption_keys")
"""The secrets that a gateway makes for itself and keeps in ``instance/``, by file."""
SHAPES = {
    "a refresh token": rb"fl_refresh[0-9A-Za-z]{20,}",
    "an access token": rb"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}",
    "a Bearer header": rb"(?i:bearer)[ +][A-Za-z0-9._~+/=-]{8,}",
}
PART_OF_A_TOKEN = re.compile(rb"fl_[0-9A-Za-z]{20,}")
WHOLE_TOKEN = re.compile(rb"(?=(fl_[0-9A-Za-z]{49}))")
"""In a database's file columns stand side by side: a token's first characters run into the hash after them."""


def leaks(files: Iterable[Path], *, instance: Path | None = None, more: Iterable[str] = ()) -> list[str]:
    """Which secret stands in which of these files; says its kind and never the secret itself."""
    known = {f"the simulator's key of {vendor}": key for vendor, key in CANARY_KEYS.items()}
    known |= {f"the password {number}": password for number, password in enumerate(PASSWORDS)}
    known |= {f"the secret {number} of this test": value for number, value in enumerate(more)}
    if instance is not None:
        known |= {name: (instance / name).read_text().strip() for name in KEPT if (instance / name).is_file()}
    patterns = SHAPES | {kind: re.escape(value.encode()) for kind, value in known.items()}
    return [f"{path.name} holds {kind}" for path in files if path.is_file() for kind in _found(path, patterns)]


def _found(path: Path, patterns: dict[str, bytes]) -> Iterator[str]:
    data = path.read_bytes()
    yield from (kind for kind, pattern in patterns.items() if re.search(pattern, data))
    if ".db" in path.name:
        tokens = any(api_token.looks_valid(match[1].decode()) for match in WHOLE_TOKEN.finditer(data))
    else:
        tokens = PART_OF_A_TOKEN.search(data) is not None
    if tokens:
        yield "an API token"


def written_by(folder: Path) -> list[Path]:
    """All that a gateway in this folder has written for others to read: logs, and the SQLite file with its journal."""
    return [*folder.glob("logs/*"), *folder.glob("*.out"), *folder.glob("instance/*.db*"), *folder.glob("*.db*")]


def check(folder: Path, *, more: Iterable[str] = ()) -> None:
    """Fail where a gateway in this folder has written down a secret."""
    found = leaks(written_by(folder), instance=folder / "instance", more=more)
    assert not found, f"secrets were written down: {found}"
