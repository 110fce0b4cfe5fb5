"""What an account may be called, and what makes a password strong enough."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import TypedDict

from flaskllm.domain.api_token import TokenBudget
from flaskllm.errors import Detail

ACTIVE, WAITING, DISABLED, CLOSED = "active", "waiting", "disabled", "closed"
STATUSES = (ACTIVE, WAITING, DISABLED)
"""What an administrator may set; ``closed`` is for good, and comes by deleting."""
BARRED = (DISABLED, CLOSED)
"""Who is let in by nothing."""
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


class UserFields(ProfileFields, total=False):
    """What an administrator may say of anybody's account; ``budget`` None: no bound."""

    role: str
    status: str
    scopes: Sequence[str]
    budget: TokenBudget | None


def folded(name: str) -> str:
    """The form in which names and e-mails are unique: look-alikes in other cases and widths are the same.

    >>> folded("Ａｄｍｉｎ")
    'admin'
    """
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def closed_email(user_id: str) -> str:
    """What stands in place of a closed account's e-mail, so that its person may begin anew with it."""
    return f"{user_id}@closed.invalid"


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
