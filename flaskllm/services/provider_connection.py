"""What may stand in ``connection_params``: what the adapter asks for, and addresses that may be called."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_address
from typing import Any

from flaskllm.adapters.base import Field
from flaskllm.domain.catalogue import LONGEST_S, TIMEOUTS
from flaskllm.errors import Detail, InvalidRequest, invalid, refuse
from flaskllm.net.addresses import is_own, is_public, may_be_opened, parse_url

WHERE = "connection_params"
LONGEST_TEXT = 512
MOST_PAIRS, LONGEST_NAME = 500, 128
_PLAIN_TEXT = re.compile(r"[\x20-\x7e]*")
"""It may go out as a header or a part of an address."""


class AddressRule:
    """Which addresses an administrator may enter for a provider: link-local and metadata ones never."""

    def __init__(self, *, allow_private: bool) -> None:
        self._allow_private = allow_private

    def admits(self, address: str) -> bool:
        """Whether this IP address may be dialled."""
        ip = ip_address(address)
        if self._allow_private:
            return may_be_opened(ip)
        return is_public(ip) and not is_own(ip)

    def checked(self, text: Any, field: str) -> str:
        """An address as it is kept: taken apart once and put together again, so that every reader sees the same host.

        Raises `InvalidRequest`. A name is looked up when it is called and not here: it may mean another host by then.
        """
        target = parse_url(text, field)
        if "?" in target.path or "#" in text:
            raise invalid(field, "must have neither a query nor a fragment")
        literal = target.literal
        neighbour = literal is None and ("." not in target.host or target.host.endswith(".localhost"))
        if (literal is not None and not self.admits(str(literal))) or (neighbour and not self._allow_private):
            private = "" if self._allow_private else ", nor private (ALLOW_PRIVATE_PROVIDERS opens those)"
            raise invalid(field, f"must not be link-local, reserved or a metadata service's{private}")
        return target.url.rstrip("/")


class ConnectionRule:
    """What a kind of provider lets an administrator set. ``fields``: as its adapter describes them."""

    def __init__(self, kind: str, fields: Sequence[Field], addresses: AddressRule) -> None:
        self._kind = kind
        self._fields = {field.name: field for field in fields}
        self._addresses = addresses

    def merged(self, held: Mapping[str, Any], sent: Mapping[str, Any], *, complete: bool) -> dict[str, Any]:
        """What was held with what was sent over it; null takes a value out. ``complete``: nothing required may lack.

        Raises `InvalidRequest` with one detail for each fault.
        """
        faults: list[Detail] = []
        found = dict(held)
        for name, value in sent.items():
            found.pop(name, None)
            try:
                checked = self._checked(name, value)
            except InvalidRequest as error:
                faults += error.details
            else:
                if checked is not None:
                    found[name] = checked
        lacking = [name for name, field in self._fields.items() if field.required and not found.get(name)]
        if complete and not faults:
            faults += [{"field": f"{WHERE}.{name}", "message": "is missing"} for name in lacking]
        refuse(faults)
        return found

    def _checked(self, name: str, value: Any) -> Any:
        field, where = self._fields.get(name), f"{WHERE}.{name[:80]}"
        if field is None:
            known = ", ".join(self._fields) or "none"
            raise invalid(where, f"is unknown; a provider of type {self._kind} takes {known}")
        if value is None:
            return None
        if field.secret:
            raise invalid(where, "is a secret: parameters are kept as they are, only api_key is encrypted")
        if name == "api_base":
            return self._addresses.checked(value, where) if value != "" else None
        if name == "timeout_s":
            return _number(value, where, most=LONGEST_S)
        if name == "timeouts":
            return timeouts(value, where)
        return _OF_TYPE[field.type](value, where)


def shown(connection: Mapping[str, Any], fields: Sequence[Field]) -> dict[str, Any]:
    """The parameters as documents show them: what the adapter calls secret is a mask."""
    secret = {field.name for field in fields if field.secret}
    return {name: "••••" if name in secret else value for name, value in connection.items()}


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or len(value) > LONGEST_TEXT or not _PLAIN_TEXT.fullmatch(value):
        raise invalid(where, f"must be a string of at most {LONGEST_TEXT} printable ASCII characters")
    return value


def _number(value: Any, where: str, *, most: float = 2**53) -> float:
    if type(value) not in (int, float) or not 0 < value <= most:  # NaN is in no range
        raise invalid(where, f"must be a number above 0, at most {most}")
    return float(value)


def timeouts(value: Any, where: str) -> dict[str, float] | None:
    """Times of four kinds, as far as they are given; None where none is. Raises `InvalidRequest`."""
    if not isinstance(value, dict):
        raise invalid(where, f"must be an object of {', '.join(TIMEOUTS)}")
    if unknown := sorted(set(map(str, value)) - set(TIMEOUTS)):
        raise invalid(f"{where}.{unknown[0][:80]}", f"is unknown; there are {', '.join(TIMEOUTS)}")
    given = {name: seconds for name, seconds in value.items() if seconds is not None}
    return {name: _number(seconds, f"{where}.{name}", most=LONGEST_S) for name, seconds in given.items()} or None


def _whole(value: Any, where: str) -> int:
    if type(value) is not int or abs(value) > 2**53:
        raise invalid(where, "must be a whole number")
    return value


def _flag(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise invalid(where, "must be true or false")
    return value


def _pairs(value: Any, where: str) -> dict[str, str]:
    if not isinstance(value, dict) or len(value) > MOST_PAIRS or not all(map(_is_name, [*value, *value.values()])):
        raise invalid(where, f"must be an object of at most {MOST_PAIRS} names to names")
    return value


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= LONGEST_NAME and _PLAIN_TEXT.fullmatch(value) is not None


_OF_TYPE: Mapping[type, Callable[[Any, str], Any]] = {
    str: _text,
    float: _number,
    int: _whole,
    bool: _flag,
    dict: _pairs,
}
