"""Single calls: who asked which model, who answered, what each attempt came to and when."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime

from flask import Response

from flaskllm.blueprints._guard import current_actor
from flaskllm.blueprints._http import page as paging
from flaskllm.blueprints.admin._filters import token_id_of, user_id_of
from flaskllm.blueprints.admin._forms import faults_of
from flaskllm.blueprints.admin._pages import bp, page, told_in_place
from flaskllm.domain.body import Body
from flaskllm.domain.call import HIGHEST_ID, CallFilters, CallKey
from flaskllm.domain.period import iso
from flaskllm.errors import DomainError, NotFound, invalid
from flaskllm.extensions import services
from flaskllm.services.requests import CODES, CallList
from flaskllm.wire.requests import write_attempts, write_call, write_facts
from flaskllm.wire.usage import read_span

FILTERS = ("from", "to", "user", "token", "model", "provider", "status", "door", "tag", "request")
FAILED, WORKED = "failed", "worked"
STATUSES = [("", "all"), (FAILED, "all errors"), (WORKED, "no errors"), *((code, code) for code in CODES)]
DOORS = (
    "openai", "responses", "messages", "embeddings", "images", "conversations", "webhook", "range", "gate", "batch",
    "batches", "python", "providers", "playground", "templates", "admin",
)  # fmt: skip
"""As the ledger names them."""
_KEY = re.compile(r"([0-9]{1,15})\.([0-9]{1,19})", re.ASCII)
_ID = re.compile(r"[0-9]{1,19}", re.ASCII)


@bp.get("/requests")
def list_requests() -> Response:
    limit, after, given = paging(*FILTERS)
    chosen = {name: value.strip() for name, value in given.items() if value.strip()}
    key = _key(after)

    def act() -> Response:
        return _page(chosen, found=services.requests.list(_filters(chosen), limit=limit, after=key))

    return told_in_place(lambda error: _page(chosen, error), act)


@bp.get("/requests/<call_id>")
def show_request(call_id: str) -> Response:
    return _call_page(_number(call_id))


@bp.post("/requests/<call_id>/body")
def look_at_body(call_id: str) -> Response:
    """What was said in it. To look is an act, and so no GET: the audit trail tells of it."""
    number = _number(call_id)
    return _call_page(number, services.bodies.look(number, current_actor()))


def _number(call_id: str) -> int:
    if not _ID.fullmatch(call_id) or int(call_id) > HIGHEST_ID:
        raise NotFound("There is no such call.")
    return int(call_id)


def _call_page(number: int, body: Body | None = None) -> Response:
    call = services.requests.get(number)
    return page(
        "request.html", call=write_call(call.line), facts=write_facts(call), attempts=list(write_attempts(call)),
        body=body, stored=services.bodies.has(number), storing=services.bodies.is_on, days=services.bodies.days,
    )  # fmt: skip


# -- what is asked ----------------------------------------------------------------------------------------------------


def _key(after: str | None) -> CallKey | None:
    if after is None:
        return None
    found = _KEY.fullmatch(after)
    if found is None or int(found[2]) > HIGHEST_ID:
        raise invalid("after", "is not where a page begins")
    return CallKey(int(found[1]), int(found[2]))


def _filters(chosen: Mapping[str, str]) -> CallFilters:
    """Raises `InvalidRequest`, which names the field."""
    since, until = read_span(chosen)
    status, door = chosen.get("status"), chosen.get("door")
    if status not in {None, *dict(STATUSES)}:
        raise invalid("status", "is not known")
    if door not in (None, *DOORS):
        raise invalid("door", "is not known")
    return CallFilters(
        request_id=chosen.get("request"),
        user_id=user_id_of(chosen),
        token_id=token_id_of(chosen),
        model=chosen.get("model"),
        provider=chosen.get("provider"),
        door=door,
        tag=chosen.get("tag"),
        error_code=status if status in CODES else None,
        failed={FAILED: True, WORKED: False}.get(status or ""),
        since=_ms(since),
        until=_ms(until),
    )


def _ms(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp() * 1000)


# -- what is shown ----------------------------------------------------------------------------------------------------


def _page(chosen: Mapping[str, str], error: DomainError | None = None, *, found: CallList | None = None) -> Response:
    following = found.following if found else None
    return page(
        "requests.html", status=200 if error is None else error.status, chosen=chosen, error=error,
        faults=faults_of(error), rows=[write_call(line) for line in found.lines] if found else [],
        following=f"{following.started_at}.{following.id}" if following else None,
        looked_to=iso(found.looked_to) if found and found.looked_to is not None else None,
        statuses=STATUSES, doors=DOORS,
    )  # fmt: skip
