"""What an account may be called, and what makes a password strong enough."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from decimal import Decimal
from typing import TypedDict

from flaskllm.errors import Detail

ACTIVE, WAITING, DISABLED = "active", "waiting", "disabled"
ROLES = ("user", "admin")

SERVICE_USER = "service"
SERVICE_EMAIL = "service@localhost"
"""No address that registration would take, so nobody can be there first."""

SHORTEST_NAME, LONGEST_NAME = 3, 64
LONGEST_EMAIL = 254
SHORTEST_PASSWORD, LONGEST_PASSWORD = 8, 256

_NAME = re.compile(r"[A-Za-z0-9._-]{3,64}", re.ASCII)
_EMAIL = re.compile(
    r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*"  # no quoted, no doubled, no outer dots
    r"@([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z][A-Za-z0-9-]{0,61}[A-Za-z0-9]",
    re.ASCII,
)


class ProfileFields(TypedDict, total=False):
    """What people may change of their own account."""

    username: str
    email: str
    password: str


class UserFields(TypedDict, total=False):
    """What an administrator may change of anybody's; ``budget`` in US dollars, None for no bound."""

    role: str
    status: str
    scopes: Sequence[str]
    budget: Decimal | None


def folded(name: str) -> str:
    """The form in which names and e-mails are unique: look-alikes in other cases and widths are the same.

    >>> folded("Ａｄｍｉｎ")
    'admin'
    """
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def faults_of(*, username: str | None = None, email: str | None = None, password: str | None = None) -> list[Detail]:
    """Everything that is wrong with what was given, each by its field."""
    found: list[Detail] = []
    if username is not None and not _NAME.fullmatch(username):
        found.append({"field": "username", "message": "must be 3 to 64 characters of A-Z a-z 0-9 . _ -"})
    if email is not None and not _is_email(email):
        found.append({"field": "email", "message": "must be an e-mail address"})
    if password is not None and (fault := _weakness(password)):
        found.append({"field": "password", "message": fault})
    return found


def _is_email(text: str) -> bool:
    return len(text) <= LONGEST_EMAIL and len(text.partition("@")[0]) <= 64 and _EMAIL.fullmatch(text) is not None


def _weakness(password: str) -> str | None:
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        return f"must have {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters"
    if "\x00" in password:
        return "must not contain NUL"
    kinds = (str.isupper, str.islower, str.isdecimal)
    if not all(any(map(kind, password)) for kind in kinds):
        return "must contain an upper and a lower letter and a digit"
    return None
