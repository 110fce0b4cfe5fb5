"""Who changed what: the audit trail, newest first."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from flask import Response

from flaskllm.blueprints._http import page as paging
from flaskllm.blueprints._http import whole
from flaskllm.blueprints.admin._pages import bp, page
from flaskllm.extensions import services
from flaskllm.wire import administration as wire
from flaskllm.wire.administration import HIGHEST_NUMBER

FILTERS = ("actor", "action", "target", "from", "to")


@bp.get("/audit")
def list_audit() -> Response:
    limit, after, given = paging(*FILTERS)
    chosen = {name: value for name, value in given.items() if value}
    number = None if after is None else whole(after, "after", least=1, most=HIGHEST_NUMBER)
    rows, following = services.audit.list(limit=limit, after=number, **wire.read_audit_filters(chosen))
    entries = [entry | {"changes": list(_changes(entry))} for entry in wire.write_entries(rows)]
    return page("audit.html", rows=entries, following=following, chosen=chosen)


def _changes(entry: Mapping[str, Any]) -> Iterator[tuple[str, str | None, str | None]]:
    """Each field that differs: its name, what it was, what it is."""
    before, after = entry["before"] or {}, entry["after"] or {}
    for name in {**before, **after}:
        yield name, _shown(before, name), _shown(after, name)


def _shown(facts: Mapping[str, Any], name: str) -> str | None:
    if name not in facts:
        return None
    value = facts[name]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
