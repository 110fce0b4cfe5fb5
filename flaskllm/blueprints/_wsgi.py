"""The outermost layer: ``?api_token=`` leaves the address before anything can log it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import unquote_plus

NAME = "api_token"
KEY = "flaskllm.query_token"
"""Where the guard finds the values that stood in the query: a list, because a caller may send several."""
ADDRESSES = ("REQUEST_URI", "RAW_URI")
"""Where servers keep the address as it came: uWSGI, gunicorn, werkzeug; their access logs print it."""

WsgiApp = Callable[[dict[str, Any], Any], Iterable[bytes]]


class QueryTokenFilter:
    """Moves the token from the address to where only the guard looks. The server's own environment is changed."""

    def __init__(self, app: WsgiApp) -> None:
        self._app = app

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        query = environ.get("QUERY_STRING", "")
        if NAME in query or "%" in query:
            kept, tokens = _parted(query)
            if tokens:
                environ["QUERY_STRING"] = kept
                environ[KEY] = tokens
                for name in ADDRESSES:
                    if name in environ:
                        environ[name] = _without_token(environ[name])
        return self._app(environ, start_response)


def _parted(query: str) -> tuple[str, list[str]]:
    """The query without the token, and the token's values."""
    kept, tokens = [], []
    for part in query.split("&"):
        name, _, value = part.partition("=")
        if unquote_plus(name) == NAME:
            tokens.append(unquote_plus(value))
        else:
            kept.append(part)
    return "&".join(kept), tokens


def _without_token(address: str) -> str:
    path, mark, query = address.partition("?")
    kept = _parted(query)[0]
    return f"{path}{mark}{kept}" if kept else path
