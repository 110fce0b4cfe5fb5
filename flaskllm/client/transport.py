"""How the client speaks HTTP: pooled connections, the credential, and trying again only where the gateway says so."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import urllib3

from flaskllm.client.errors import GatewayError, GatewayUnreachable, TokenExpired, from_answer
from flaskllm.version import VERSION

CONNECT_S = 5.0
LONGEST_WAIT_S = 30.0
"""A longer ``Retry-After`` is handed to the caller as the error that it is."""


class Session:
    """The tokens of somebody who logged in. Refreshed by one thread at a time: a refresh token works once."""

    def __init__(self, tokens: Mapping[str, Any]) -> None:
        self._lock = threading.Lock()
        self._take(tokens)

    def _take(self, tokens: Mapping[str, Any]) -> None:
        self.access, self._refresh = str(tokens["access_token"]), str(tokens["refresh_token"])

    def renew(self, worn: str, refresh: Callable[[str], Mapping[str, Any]]) -> None:
        """Fetch new tokens, unless another thread has done so since ``worn`` was read."""
        with self._lock:
            if self.access == worn:
                self._take(refresh(self._refresh))


class Transport:
    """``timeout``: seconds without a byte. ``retries``: most further tries where the gateway asks for patience."""

    def __init__(self, url: str, *, token: str | None, timeout: float, retries: int) -> None:
        self._url = url.rstrip("/")
        self._token = token
        self.session: Session | None = None
        self._retries = retries
        self._timeout = urllib3.Timeout(connect=min(CONNECT_S, timeout), read=timeout)
        self._pool = urllib3.PoolManager(maxsize=32, retries=False)

    def call(self, method: str, path: str, body: Any = None, *, query: Mapping[str, str] | None = None) -> Any:
        """The answer's document, None where it has none, and its headers. Raises a `GatewayError`."""
        response = self.open(method, path, body, query=query)
        return _document(response.data), response.headers

    def open(
        self, method: str, path: str, body: Any = None, *, query: Mapping[str, str] | None = None, stream: bool = False
    ) -> urllib3.BaseHTTPResponse:
        """An answer that went well; with ``stream`` its body is still to be read. Raises a `GatewayError`."""
        left = self._retries
        while True:
            try:
                return self._renewing(method, path, body, query=query, stream=stream)
            except GatewayError as error:
                if left <= 0 or not _says_try_again(error):
                    raise
                left -= 1
                time.sleep(error.retry_after or 0.0)

    def _renewing(self, method: str, path: str, body: Any, **how: Any) -> urllib3.BaseHTTPResponse:
        session = self.session
        if session is None:
            return self._once(method, path, body, self._token, **how)
        worn = session.access
        try:
            return self._once(method, path, body, worn, **how)
        except TokenExpired:
            session.renew(worn, self._refreshed)
            return self._once(method, path, body, session.access, **how)

    def _refreshed(self, token: str) -> Mapping[str, Any]:
        response = self._once("POST", "/api/auth/refresh", {"refresh_token": token}, None, query=None, stream=False)
        return _document(response.data)["data"]

    def _once(
        self, method: str, path: str, body: Any, token: str | None, *, query: Mapping[str, str] | None, stream: bool
    ) -> urllib3.BaseHTTPResponse:
        headers = {
            "User-Agent": f"flaskllm-client/{VERSION}",
            "Accept": "text/event-stream" if stream else "application/json",
        }
        if token:
            headers["Authorization"] = f"Bearer {token}"
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            response = self._pool.request(
                method,
                self._url + path,
                body=None if body is None else json.dumps(body).encode(),
                fields=query,
                headers=headers,
                timeout=self._timeout,
                preload_content=not stream,
                redirect=False,
            )
            if response.status < 300:
                return response
            raw = response.data  # the rest of a refused stream is its error
        except urllib3.exceptions.HTTPError as error:
            raise unreachable(error) from None
        raise from_answer(response.status, response.headers, _document(raw))

    def close(self) -> None:
        self._pool.clear()


def unreachable(error: Exception) -> GatewayUnreachable:
    """In words without the address, in which a password might stand."""
    return GatewayUnreachable(f"The gateway could not be reached, or broke off ({type(error).__name__}).")


def _says_try_again(error: GatewayError) -> bool:
    """Only where the gateway named a time, and did not say that it is of no use."""
    return error.should_retry and error.retry_after is not None and error.retry_after <= LONGEST_WAIT_S


def _document(raw: bytes) -> Any:
    try:
        return json.loads(raw) if raw else None
    except ValueError:
        return None
