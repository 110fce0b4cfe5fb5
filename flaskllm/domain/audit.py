"""Who changed what: the words of the audit trail, the form that is signed, and the net that keeps secrets out of it."""

from __future__ import annotations

import getpass
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from flaskllm.domain.text import holdable

MASK = "••••"
FIRST_LINK = "0" * 64
"""What the first row is chained to."""
BROKEN_LINK = "broken"
"""What a row is chained to where the head could not be trusted: a break that nobody can mend afterwards."""
LONGEST_ADDRESS = 64

_SECRET_NAME = re.compile(
    r"(?:^|[_-])(?:password|passphrase|secret|token|api[_-]?key|key|authorization|credentials?|cookie|ciphertext|hash)$",
    re.IGNORECASE,
)
_SECRET_SHAPE = re.compile(
    r"fl_[0-9A-Za-z]{20,}"
    r"|(?<![A-Za-z0-9_-])(?>[A-Za-z0-9_-]*?eyJ)[A-Za-z0-9_-]{8,}+\.[A-Za-z0-9_-]{8,}+\.[A-Za-z0-9_-]*"
    r"|\b(?:sk|pk|rk|xai|gsk)[-_][A-Za-z0-9_-]{8,}"
    r"|AIza[A-Za-z0-9_-]{20,}"
    r"|(?i:bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}"
    r"|\$argon2[a-z]*\$\S+"
    r"|(?<=://)[^/\s:@]*:[^/\s@]+(?=@)"
    r"|(?i:(?:api[_-]?key|key|token|secret|password|sig)=)[^&\s]{4,}"
    r"|\b[0-9a-fA-F]{32,}\b"
    r"|\b(?=\w*[0-9])(?=\w*[a-z])(?=\w*[A-Z])\w{32,}\b",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Actor:
    """Who makes a change: ``id`` is a user's (None at the shell), ``address`` where the request came from."""

    id: str | None
    name: str
    address: str | None
    request_id: str | None


SYSTEM = Actor(None, "system", None, None)
"""The program itself, where nobody asked."""


def at_the_shell() -> Actor:
    """Whoever runs a command: ``cli:`` and the operating system's name of them."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container's user has a number only
        name = str(getattr(os, "getuid", lambda: "unknown")())
    return Actor(None, f"cli:{holdable(name)}", None, None)


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the trail. ``at`` in milliseconds since 1970 in UTC; ``before`` and ``after`` are JSON texts."""

    number: int
    at: int
    actor_id: str | None
    actor_name: str
    action: str
    target: str
    address: str | None
    request_id: str | None
    before: str | None
    after: str | None
    key_id: str
    previous_mac: str

    def canonical(self) -> bytes:
        """What is signed: everything, in one order, so that no two entries have the same bytes."""
        fields = [getattr(self, name) for name in self.__slots__]
        return json.dumps(fields, ensure_ascii=True, separators=(",", ":"), default=repr).encode()


def facts_text(facts: Mapping[str, Any] | None) -> str | None:
    """One side of a change as it is kept: masked, its fields in order, ASCII, so that every store holds it."""
    if facts is None:
        return None
    return json.dumps(masked(facts), ensure_ascii=True, sort_keys=True, separators=(",", ":"), default=_plain)


def masked(value: Any, *, name: str = "") -> Any:
    """The value without anything that has the shape of a secret, or the name of one.

    A field of a secret's name keeps no more than what begins with our mask already.

    >>> masked({"api_key": "••••1234", "password": "Password123", "url": "https://me:pw@host/"})
    {'api_key': '••••1234', 'password': '••••', 'url': 'https://••••@host/'}
    """
    if isinstance(value, Mapping):
        return {str(key): masked(held, name=str(key)) for key, held in value.items()}
    if isinstance(value, str):
        if _SECRET_NAME.search(name) and value and not value.startswith(MASK):
            return MASK
        return _SECRET_SHAPE.sub(MASK, value)
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [masked(held, name=name) for held in value]
    return MASK if isinstance(value, bytes) else value


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Only what differs, of both.

    >>> difference({"role": "user", "email": "a@b.cd"}, {"role": "admin", "email": "a@b.cd"})
    ({'role': 'user'}, {'role': 'admin'})
    """
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return {name: before.get(name) for name in names}, {name: after.get(name) for name in names}


def _plain(value: Any) -> str:
    if isinstance(value, datetime | date):
        return value.isoformat()
    return str(value)
