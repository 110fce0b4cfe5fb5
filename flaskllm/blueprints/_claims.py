"""What a caller says of itself in S2's three headers: read, bounded, recorded, returned; never used for access.

`client_id` has an underscore in its name, which many servers drop; ``X-Client-Id`` is the same header everywhere.
"""

from __future__ import annotations

import re

from flask import Response, g, request

from flaskllm.domain.principal import Claims
from flaskllm.errors import Detail, invalid, refuse

CORRELATION, USER, CLIENT, CLIENT_TOO = "X-Correlation-Id", "X-User-Id", "client_id", "X-Client-Id"
MOST_CORRELATION, MOST_NAME = 64, 128
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def claims() -> Claims:
    """What of them can be recorded; each may be left out. Raises `InvalidRequest` where two client ids differ."""
    client, client_too = _said(CLIENT), _said(CLIENT_TOO)
    if client and client_too and client != client_too:
        raise invalid(CLIENT, f"differs from {CLIENT_TOO}")
    return _recorded()


def require_claims() -> None:
    """S2's own paths ask for all three, well formed. Raises `InvalidRequest` with a detail for each header at fault."""
    faults: list[Detail] = []
    for name, value, fault in (
        (CORRELATION, _said(CORRELATION), _uuid_fault),
        (USER, _said(USER), _name_fault),
        (CLIENT, _said(CLIENT) or _said(CLIENT_TOO), _name_fault),
    ):
        if told := fault(value):
            faults.append({"field": name, "message": told})
    refuse(faults)
    claims()


def return_claims(response: Response) -> None:
    """Say the headers again: the client's under the name it came by, and under the one that passes everywhere."""
    said = _recorded()
    told = {CORRELATION: said.correlation_id, USER: said.user_id, CLIENT_TOO: said.client_id}
    if said.client_id and _said(CLIENT):
        told[CLIENT] = said.client_id
    response.headers.update({name: value for name, value in told.items() if value})


def claims_for_log() -> dict[str, str | None]:
    """The two that stand in every line of the log."""
    said = _recorded()
    return {"client_id": said.client_id, "correlation_id": said.correlation_id}


def _recorded() -> Claims:
    if "claims" not in g:
        g.claims = Claims(
            correlation_id=_bounded(_said(CORRELATION), MOST_CORRELATION),
            user_id=_bounded(_said(USER), MOST_NAME),
            client_id=_bounded(_said(CLIENT) or _said(CLIENT_TOO), MOST_NAME),
        )
    found: Claims = g.claims
    return found


def _said(name: str) -> str:
    """As WSGI has it, which spells ``client_id`` and ``Client-Id`` alike."""
    return str(request.environ.get(f"HTTP_{name.upper().replace('-', '_')}", "")).strip(" \t")


def _bounded(value: str, most: int) -> str | None:
    """What a log, a row and a header can hold, or nothing."""
    return value[:most] or None if _is_plain(value) else None


def _is_plain(value: str) -> bool:
    return value.isascii() and value.isprintable()


def _uuid_fault(value: str) -> str | None:
    if not value:
        return "is missing"
    return None if _UUID.fullmatch(value) else "must be a UUID"


def _name_fault(value: str) -> str | None:
    if not value:
        return "is missing"
    if len(value) > MOST_NAME or not _is_plain(value):
        return f"must have 1 to {MOST_NAME} printable ASCII characters"
    return None
