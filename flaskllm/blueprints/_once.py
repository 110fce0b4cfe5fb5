"""``Idempotency-Key``: a view that spends money answers a repeated request without doing its work again."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_OID, uuid5

from flask import Response, g, request

from flaskllm.blueprints._calls import CACHE
from flaskllm.blueprints._errors import render
from flaskllm.blueprints._guard import current_principal
from flaskllm.blueprints._http import json_body
from flaskllm.domain.answer import KeptAnswer
from flaskllm.errors import ProviderRefused, StillRunning, invalid
from flaskllm.extensions import services
from flaskllm.services.limits import rate_headers

if TYPE_CHECKING:
    from flaskllm.repositories.answers import Claim

View = Callable[..., Response]

NAME, REPLAYED = "Idempotency-Key", "Idempotency-Replayed"
HEADER = {
    "name": NAME,
    "in": "header",
    "description": "A name of your own for this request: sent again with it, it is answered from what was kept for "
    "24 hours and costs nothing. Ignored on a stream",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]([ -~]*[!-~])?$"},
}
_KEY = re.compile(r"[ -~]{1,255}")
_KEPT = re.compile(r"content-type|x-flaskllm-.*|x-should-retry", re.IGNORECASE)
"""Headers that belong to the answer, and not to the request that it was given to."""
LOOK_AGAIN_S = 0.1
NOTHING_SPENT = {"X-FlaskLLM-Cost": "0", "X-FlaskLLM-Attempts": "0", "X-FlaskLLM-Cache": "hit"}


def once(view: View) -> View:
    """Mark a view whose answer is kept under the caller's ``Idempotency-Key``; stands below `documented`.

    What is kept is an answer that went well and a provider's refusal of the request itself. After anything else, which
    may go otherwise the next time, the key is free again.
    """

    @wraps(view)
    def answer(*args: Any, **named: Any) -> Response:
        if NAME not in request.headers:
            return view(*args, **named)
        g.body = body = json_body()
        if body.get("stream") is True:
            return view(*args, **named)
        return answer_once(body, lambda: view(*args, **named))

    return takes_a_key(answer)


def takes_a_key(view: View) -> View:
    """Tell the document of it, where a view calls `answer_once` itself."""
    view.takes_a_key = True  # type: ignore[attr-defined]
    return view


def answer_once(body: Mapping[str, Any], work: Callable[[], Response], *, patience_s: float = 0.0) -> Response:
    """What the caller's key stands for, or the answer of ``work``, kept under it; without a key that answer alone.

    ``body``: what makes it the same request. ``patience_s``: how long the first one is waited for, where it takes but a
    moment.
    """
    if NAME not in request.headers:
        return work()
    got = _begin(_key(), body, time.monotonic() + patience_s)
    if isinstance(got, KeptAnswer):
        return _replay(got)
    g.claim = got
    try:
        response = work()
    except ProviderRefused as refusal:
        response = render(refusal)
    except BaseException:
        services.idempotency.give_up(got)
        raise
    services.idempotency.keep(got, _kept(response))
    return response


def work_id() -> str | None:
    """A UUID that stands for what this key asks for, the same at every try; None without a key.

    What was done under it, by a process that died before it could answer, is found again.
    """
    claim: Claim | None = g.get("claim")
    return None if claim is None else str(uuid5(NAMESPACE_OID, f"{claim.id} {claim.question}"))


def _begin(key: str, body: Mapping[str, Any], until: float) -> Claim | KeptAnswer:
    while True:
        try:
            return services.idempotency.begin(current_principal(), key, place=_place(), body=body)
        except StillRunning:
            if time.monotonic() >= until:
                raise
            time.sleep(LOOK_AGAIN_S)


def _key() -> str:
    key = request.headers[NAME].strip()
    if not _KEY.fullmatch(key):
        raise invalid(NAME, "must have 1 to 255 printable ASCII characters")
    return key


def _place() -> str:
    """What is asked beside the body: path and query, and headers that make another question of it."""
    return " ".join([request.full_path, *(request.headers.get(name, "") for name in ("anthropic-beta", CACHE))])


def _kept(response: Response) -> KeptAnswer:
    headers = {name: value for name, value in response.headers.items() if _KEPT.fullmatch(name)}
    return KeptAnswer(response.status_code, headers, response.get_data())


def _replay(kept: KeptAnswer) -> Response:
    """The same bytes, marked. It counts as a request against the caller's limit, and costs nothing."""
    rates = services.limits.admit_request(current_principal())
    response = Response(kept.body, status=kept.status, headers=dict(kept.headers))
    response.headers.update({**rate_headers(rates), REPLAYED: "true"})
    if kept.status < 400:
        response.headers.update(NOTHING_SPENT)
    return response
