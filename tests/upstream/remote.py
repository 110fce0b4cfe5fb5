"""`RemoteUpstream`: the methods of `Upstream` for a simulator in another process."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode
from urllib.request import ProxyHandler, Request, build_opener

from .addresses import Addresses
from .faults import Behaviour
from .ledger import BillRow, Seen

PATIENCE = 30.0
"""Seconds for one control call, beyond what the call itself waits."""


class RemoteUpstream(Addresses):
    """Talks to the control port of `python -m tests.upstream`; same names, same meaning."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._opener = build_opener(ProxyHandler({}))

    def script(
        self,
        what: Behaviour | str,
        *,
        vendor: str | None = None,
        model: str | None = None,
        route: str | None = None,
        key: str | None = None,
        times: int | None = None,
    ) -> None:
        steps = what if isinstance(what, str) else what.to_json()
        self._post("script", behaviour=steps, vendor=vendor, model=model, route=route, key=key, times=times)

    def plan(self, steps: dict[str, list[Behaviour]]) -> None:
        self._post("plan", **{mark: [one.to_json() for one in ones] for mark, ones in steps.items()})

    def unscript(self) -> None:
        self._post("unscript")

    def reset(self) -> None:
        self._post("reset")

    @property
    def requests(self) -> list[Seen]:
        return [Seen(**row) for row in self._get("requests")]

    @property
    def bill(self) -> list[BillRow]:
        return [BillRow(**row) for row in self._get("bill")]

    @property
    def stats(self) -> dict[str, Any]:
        return dict(self._get("stats"))

    @property
    def keys(self) -> dict[str, str]:
        """A copy: change keys with `set_key`."""
        return dict(self._get("keys"))

    def set_key(self, vendor: str, key: str) -> None:
        self._post("keys", **{vendor: key})

    def accept_key(self, vendor: str, key: str) -> str:
        self._post("accept_key", vendor=vendor, key=key)
        return key

    def revoke_key(self, key: str) -> None:
        self._post("revoke_key", key=key)

    def azure_region(self, name: str) -> tuple[str, str]:
        return f"{self.url}/azure-{name}", self.keys[f"azure-{name}"]

    def endpoint(self, kind: str) -> str:
        return str(self._get("endpoint", kind=kind))

    def wait_idle(self, timeout: float = 5) -> bool:
        return bool(self._get("idle", timeout=timeout))

    def _get(self, path: str, **query: Any) -> Any:
        return self._call(Request(f"{self.url}/_control/{path}?{urlencode(query)}"), query.get("timeout", 0))

    def _post(self, path: str, **body: Any) -> None:
        self._call(Request(f"{self.url}/_control/{path}", json.dumps(body).encode(), method="POST"))

    def _call(self, request: Request, waits: float = 0) -> Any:
        with self._opener.open(request, timeout=PATIENCE + waits) as response:
            return json.load(response)
