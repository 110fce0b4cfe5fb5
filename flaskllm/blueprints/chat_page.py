"""The web chat for everybody who has an account: ``examples/web-chat``, served at ``/chat`` where ``CHAT_PAGE`` is on.

Files alone: what the page does, it does by the public API, with what its user may do there.
"""

from __future__ import annotations

from pathlib import Path

from flask import Blueprint, Response, current_app

from flaskllm.blueprints._doc import documented
from flaskllm.errors import NotFound
from flaskllm.wire.shapes import STRING

bp = Blueprint("chat_page", __name__)

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "web-chat"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
"""Nothing inline, nothing from elsewhere, no text that becomes markup or a program."""
SCRIPT, STYLE, ICON = "text/javascript; charset=utf-8", "text/css; charset=utf-8", "image/svg+xml"
FILES = {
    **{
        f"{name}.js": SCRIPT
        for name in ("account", "api", "app", "config", "conversations", "dom", "entrance", "tokens", "usage")
    },
    "style.css": STYLE,
    "icon.svg": ICON,
}
"""Every file beside the page, by its name under ``/chat/``; there are no others."""


@bp.get("")
@documented("A chat for everybody with an account, as a page", answer=STRING, media="text/html", errors=(404,))
def page() -> Response:
    return _sent("index.html", "text/html; charset=utf-8", "no-store")


@bp.get("/<name>")
@documented(
    "A file of that page",
    answer={"description": "A script, a style sheet or a picture"},
    media="*/*",
    errors=(404,),
    description=f"One of: {', '.join(FILES)}.",
)
def file(name: str) -> Response:
    if name not in FILES:
        raise NotFound("There is no such path.")
    return _sent(f"chat/{name}", FILES[name], "no-cache")


def _sent(place: str, media: str, cached: str) -> Response:
    if not current_app.config["CHAT_PAGE"]:
        raise NotFound("There is no such path.")
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": cached}
    return Response((FOLDER / place).read_bytes(), content_type=media, headers=headers)
