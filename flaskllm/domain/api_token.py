"""API tokens as text: how one is made, and how a typo is told without a look-up.

``fl_``, 43 base-62 characters of 32 random bytes, six base-62 digits of the CRC32 over what stands before them.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import zlib
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import TypedDict

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
PREFIX = "fl_"
RANDOM_BYTES = 32
RANDOM_DIGITS = 43
CHECK_DIGITS = 6
SHOWN = 8
"""How much of its beginning a token shows afterwards: enough to know it again, 30 of its 256 bits."""

REFRESH_PREFIX = "fl_refresh"
"""Refresh tokens begin as API tokens do, so that whatever masks the one in a log masks the other."""

_FORM = re.compile(f"{PREFIX}[0-9A-Za-z]{{{RANDOM_DIGITS + CHECK_DIGITS}}}", re.ASCII)
_REFRESH_FORM = re.compile(f"{REFRESH_PREFIX}[0-9A-Za-z]{{{RANDOM_DIGITS}}}", re.ASCII)


class TokenBudget(TypedDict):
    """``amount`` in US dollars for each ``period``."""

    amount: Decimal | int | float
    period: str


class TokenFields(TypedDict, total=False):
    """What may be said of a token when it is made or changed, by the names of the contract's document."""

    name: str
    scopes: Sequence[str] | None
    models: Sequence[str] | None
    templates: Sequence[str] | None
    requests_per_minute: int | None
    tokens_per_minute: int | None
    concurrency: int | None
    budget: TokenBudget | None
    expires_at: datetime | None
    allowed_ips: Sequence[str]
    tags: Sequence[str]
    drop_params: bool
    cache: bool


def make() -> str:
    """A fresh token; nobody but its owner will ever read it again."""
    body = PREFIX + _base62(int.from_bytes(secrets.token_bytes(RANDOM_BYTES)), RANDOM_DIGITS)
    return body + checksum(body)


def make_refresh() -> str:
    """A fresh refresh token: as long a secret, and no API token."""
    return REFRESH_PREFIX + _base62(int.from_bytes(secrets.token_bytes(RANDOM_BYTES)), RANDOM_DIGITS)


def checksum(body: str) -> str:
    """Six base-62 digits of the CRC32 over everything before them.

    >>> checksum("fl_" + "0" * 43)
    '4bbMPO'
    """
    return _base62(zlib.crc32(body.encode()), CHECK_DIGITS)


def looks_valid(token: str) -> bool:
    """Whether this can be a token at all: form and checksum, so that garbage costs no query."""
    return _FORM.fullmatch(token) is not None and checksum(token[:-CHECK_DIGITS]) == token[-CHECK_DIGITS:]


def looks_like_refresh(token: str) -> bool:
    return _REFRESH_FORM.fullmatch(token) is not None


def hash_of(token: str) -> str:
    """What is stored. A plain hash will do: 256 random bits cannot be guessed at, however fast the hash is."""
    return hashlib.sha256(token.encode()).hexdigest()


def shown_start(token: str) -> str:
    return token[:SHOWN]


def last4(token: str) -> str:
    return token[-4:]


def _base62(number: int, digits: int) -> str:
    found = []
    for _ in range(digits):
        number, digit = divmod(number, len(ALPHABET))
        found.append(ALPHABET[digit])
    return "".join(reversed(found))
