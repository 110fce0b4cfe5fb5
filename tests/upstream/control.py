"""Remote control: what `Upstream` can do in process, over HTTP under /_control."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from .faults import Behaviour
from .transport import Reply, Request

if TYPE_CHECKING:
    from .server import Upstream


def answer(up: Upstream, request: Request, path: str) -> Reply:
    """One control call; every answer is JSON, an unknown path a 404, a bad argument a 400."""
    try:
        if request.method == "GET" and path in _READS:
            return _json(_READS[path](up, request.query))
        if request.method == "POST" and path in _WRITES:
            return _json(_WRITES[path](up, request.json() or {}))
    except (KeyError, TypeError, ValueError) as problem:
        return _json({"error": repr(problem)}, 400)
    return _json({"error": f"unknown: {request.method} {path}", "GET": sorted(_READS), "POST": sorted(_WRITES)}, 404)


def _json(data: Any, status: int = 200) -> Reply:
    return Reply(status, body=json.dumps(data).encode())


def _script(up: Upstream, body: dict[str, Any]) -> None:
    what = body.pop("behaviour")
    up.script(what if isinstance(what, str) else Behaviour.from_json(what), **body)


def _plan(up: Upstream, body: dict[str, Any]) -> None:
    up.plan({mark: [Behaviour.from_json(one) for one in ones] for mark, ones in body.items()})


_READS: dict[str, Callable[[Upstream, dict[str, str]], Any]] = {
    "/requests": lambda up, query: [asdict(one) for one in up.requests],
    "/bill": lambda up, query: [asdict(one) for one in up.bill],
    "/stats": lambda up, query: up.stats,
    "/keys": lambda up, query: up.keys,
    "/idle": lambda up, query: up.wait_idle(float(query.get("timeout", 5))),
    "/endpoint": lambda up, query: up.endpoint(query["kind"]),
}
_WRITES: dict[str, Callable[[Upstream, dict[str, Any]], Any]] = {
    "/script": _script,
    "/plan": _plan,
    "/unscript": lambda up, body: up.unscript(),
    "/reset": lambda up, body: up.reset(),
    "/keys": lambda up, body: up.keys.update(body),
    "/accept_key": lambda up, body: up.accept_key(body["vendor"], body["key"]),
    "/revoke_key": lambda up, body: up.revoke_key(body["key"]),
}
