"""What lists of calls are filtered by: names as people know them, turned into the ids that rows hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flaskllm.errors import Conflict, NotFound, invalid
from flaskllm.extensions import services


def user_id_of(given: Mapping[str, str]) -> str | None:
    """Of ``user``, a name or an id; None where it is left empty. Raises `InvalidRequest`, which names the field."""
    return _id_of(given, "user", services.accounts.named)


def token_id_of(given: Mapping[str, str]) -> str | None:
    """Of ``token``, an id or a name that only one token has."""
    return _id_of(given, "token", services.tokens.named)


def _id_of(given: Mapping[str, str], field: str, find: Callable[[str], Any]) -> str | None:
    text = given.get(field, "").strip()
    if not text:
        return None
    try:
        return str(find(text).id)
    except NotFound:
        raise invalid(field, f"there is no such {field}") from None
    except Conflict:
        raise invalid(field, f"several have this name; give the id, which the {field}'s page shows") from None
