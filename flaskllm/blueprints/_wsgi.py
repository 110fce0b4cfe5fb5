"""Outside of everything: the token in a query is taken out before anything can log it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote_plus

NAME = "api_token"
KEY = "flaskllm.query_token"
"""Where the guard finds the values that stood in the query: a list, because a caller may send several."""


class QueryTokenFilter:
    """Moves ``?api_token=`` from ``QUERY_STRING``, ``REQUEST_URI`` and ``RAW_URI`` to a place that is never logged."""

    def __init__(self, app: Any) -> None:
        self._app = app

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        query = environ.get("QUERY_STRING", "")
        if NAME in query or "%" in query:
            kept, found = _split(query)
            if found:
                environ["QUERY_STRING"] = kept
                environ[KEY] = found
                for name in ("REQUEST_URI", "RAW_URI"):
                    if name in environ:
                        path = str(environ[name]).partition("?")[0]
                        environ[name] = f"{path}?{kept}" if kept else path
        return self._app(environ, start_response)


def _split(query: str) -> tuple[str, list[str]]:
    kept, found = [], []
    for part in query.split("&"):
        name, _, value = part.partition("=")
        if unquote_plus(name) == NAME:
            found.append(unquote_plus(value))
        else:
            kept.append(part)
    return "&".join(kept), found
