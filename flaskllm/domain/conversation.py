"""A conversation: who said what, and how much of it a model is shown."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import uuid4

from flaskllm.domain.answer import Answer
from flaskllm.domain.estimate import message_estimate
from flaskllm.domain.text import holdable
from flaskllm.domain.usage import Usage
from flaskllm.errors import invalid

TITLE_CHARS = 80
MOST_TITLE = 200
MOST_SEARCH = 200
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_CURSOR = re.compile(r"([0-9]{1,16})\.([A-Za-z0-9._-]{1,64})")


@dataclass(frozen=True, slots=True)
class Carried:
    """Signed thoughts of an answer, for the provider that signed them: fields of its message."""

    provider: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Turn:
    """One message. ``interrupted``: the caller hung up in the middle of it; what had been said until then is kept."""

    role: str
    content: str
    interrupted: bool = False
    carried: Carried | None = None

    def to_message(self) -> dict[str, Any]:
        """As models are shown it."""
        message = {"role": self.role, "content": self.content}
        return {**message, **self.carried.fields} if self.carried else message


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation without its turns; ``id`` is the name its owner knows it by, ``length`` its number of turns.

    ``system``: the system message that goes before every call, the last one that was given.
    """

    id: str
    title: str
    length: int
    created_at: datetime
    updated_at: datetime
    system: str | None = None


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in a list that is ordered by last change, then by name: stays good while others are added."""

    changed_us: int
    name: str

    def __str__(self) -> str:
        return f"{self.changed_us}.{self.name}"


def read_cursor(text: str) -> Cursor:
    """The place that a list's ``next`` named. Raises `InvalidRequest`."""
    if (found := _CURSOR.fullmatch(text)) is None:
        raise invalid("after", "must be the `next` of the list before")
    return Cursor(int(found[1]), found[2])


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list, and where the next one begins; None at its end."""

    found: tuple[Conversation, ...]
    next: Cursor | None = None


@dataclass(frozen=True, slots=True)
class Said:
    """One message of a caller to a conversation; without ``conversation_id`` a new one begins.

    ``params``: parameters of the model by OpenAI's name.
    """

    message: str
    params: dict[str, Any]
    conversation_id: str | None = None
    model: str | None = None
    provider: str | None = None
    system: str | None = None
    stream: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """One whole answer in a conversation; ``cost`` in 10⁻⁹ dollar. ``answer`` tells the headers."""

    conversation_id: str
    text: str
    model: str
    provider: str
    usage: Usage
    cost: int | None
    answer: Answer | None = None


def new_name() -> str:
    """The id of a conversation whose owner named none."""
    return str(uuid4())


def is_ours(name: str) -> bool:
    """Whether only we give out such ids: a UUID that we did not make is nobody's conversation."""
    return _UUID.fullmatch(name) is not None


def canonical(name: str) -> str | None:
    """The name as it is stored; None for what no conversation can be called.

    >>> canonical("2F1C0D3E-0000-4000-8000-000000000001"), canonical("my-notes"), canonical("conv:*")
    ('2f1c0d3e-0000-4000-8000-000000000001', 'my-notes', None)
    """
    if is_ours(name):
        return name.lower()
    return name if _NAME.fullmatch(name) else None


def title_of(message: str) -> str:
    """A conversation's title until somebody renames it."""
    return holdable(message)[:TITLE_CHARS]


def trim_to_window(
    turns: Sequence[Turn], window_tokens: int | None, *, system: str | None = None, reserve: int = 0
) -> list[dict[str, Any]]:
    """The messages that fit into a window, the system message and the last turn always among them.

    The oldest go first, and what is left begins with a user's turn: several models refuse to be shown their own words
    first. ``reserve`` is kept for the answer. No window: everything.
    """
    head = [{"role": "system", "content": system}] if system else []
    messages = [turn.to_message() for turn in turns]
    if window_tokens is not None:
        room = window_tokens - reserve - sum(map(message_estimate, head))
        messages = messages[_first_that_fits(messages, room) :]
    return head + messages


def _first_that_fits(messages: Sequence[dict[str, Any]], room: int) -> int:
    """From which message on they all fit."""
    first = last = len(messages) - 1
    for place in range(last, -1, -1):
        room -= message_estimate(messages[place])
        if room < 0:
            break
        if messages[place]["role"] == "user":
            first = place
    return max(first, 0)
