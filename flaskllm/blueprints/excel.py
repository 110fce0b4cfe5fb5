"""The spreadsheet kit: ``/excel`` says how to install it, ``/excel/…`` serves it with this address filled in."""

from __future__ import annotations

import re
import uuid
from pathlib import Path
from typing import NamedTuple

from flask import Blueprint, Response, render_template, request

from flaskllm.blueprints._doc import documented
from flaskllm.errors import NotFound
from flaskllm.version import VERSION
from flaskllm.wire.shapes import STRING

bp = Blueprint("excel", __name__)

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PLACEHOLDER, NO_ID = "https://gateway.example.com", "00000000-0000-0000-0000-000000000000"
"""What stands in the files for the address of a gateway, and for the add-in's own id."""
VENDORS = (
    "https://*.officeapps.live.com https://*.office.com https://*.office365.com https://*.microsoft365.com "
    "https://*.cloud.microsoft https://*.sharepoint.com"
)
"""Who shows our pages inside of theirs: Excel in a browser."""
LIBRARY = "https://appsforoffice.microsoft.com"
"""Office's own script, which an add-in has to load from its vendor."""
PAGE = (
    "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; "
    f"frame-ancestors 'self' {VENDORS}"
)
ADD_IN = (
    f"default-src 'none'; script-src 'self' {LIBRARY}; style-src 'self'; img-src 'self'; connect-src 'self'; "
    f"base-uri 'none'; form-action 'self'; frame-ancestors 'self' {VENDORS}"
)
_ADDRESS = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?|https?://\[[0-9a-fA-F:.]+\](:[0-9]{1,5})?")


class KitFile(NamedTuple):
    """A file of the kit: where it lies under ``examples/``, and its media type."""

    place: str
    media: str


SCRIPT, PLAIN, HTML = "text/javascript; charset=utf-8", "text/plain; charset=utf-8", "text/html; charset=utf-8"
KIT = {
    "manifest.xml": KitFile("excel-add-in/manifest.xml", "application/xml"),
    "functions.js": KitFile("excel-add-in/functions.js", SCRIPT),
    "functions.json": KitFile("excel-add-in/functions.json", "application/json"),
    "functions.html": KitFile("excel-add-in/functions.html", HTML),
    "taskpane.html": KitFile("excel-add-in/taskpane.html", HTML),
    "taskpane.js": KitFile("excel-add-in/taskpane.js", SCRIPT),
    "taskpane.css": KitFile("excel-add-in/taskpane.css", "text/css; charset=utf-8"),
    **{
        f"icon-{size}.png": KitFile(f"excel-add-in/icon-{size}.png", "image/png") for size in (16, 32, 64, 80)
    },
    **{
        f"{name}-column.ts": KitFile(f"office-scripts/{name}-column.ts", PLAIN)
        for name in ("summarize", "classify", "translate")
    },
    "FlaskLLM.gs": KitFile("apps-script/FlaskLLM.gs", PLAIN),
    "FlaskLLM.pq": KitFile("power-query/FlaskLLM.pq", PLAIN),
    "connector.json": KitFile("power-automate/connector.json", "application/json"),
}  # fmt: skip
"""Every file that is served, by its name under ``/excel/``; there are no others."""


@bp.get("")
@documented("How to use the gateway from spreadsheets, as a page", answer=STRING, media="text/html")
def page() -> Response:
    html = render_template("excel.html", address=_address(), is_plain=not request.is_secure, version=VERSION)
    return _sent(html, HTML, PAGE)


@bp.get("/<name>")
@documented(
    "A file of the spreadsheet kit, with this gateway's address in it",
    answer={"description": "A text, or a picture"},
    media="*/*",
    errors=(404,),
    description=f"One of: {', '.join(KIT)}.",
)
def file(name: str) -> Response:
    kept = KIT.get(name)
    if kept is None:
        raise NotFound("There is no such file in the kit; GET /excel lists them.")
    return _sent(_filled((EXAMPLES / kept.place).read_bytes(), kept.media), kept.media, ADD_IN)


def _sent(body: str | bytes, media: str, policy: str) -> Response:
    headers = {"Cache-Control": "no-cache", "Vary": "Host"}
    if media == HTML:
        headers["Content-Security-Policy"] = policy
    return Response(body, content_type=media, headers=headers)


def _filled(body: bytes, media: str) -> bytes:
    """The file with this gateway's address, and an add-in's id that is this gateway's own, in it."""
    if media == "image/png":
        return body
    address = _address()
    own_id = str(uuid.uuid5(uuid.NAMESPACE_URL, address))
    filled = body.decode().replace(PLACEHOLDER, address).replace(NO_ID, own_id)
    scheme, _, host = address.partition("://")
    filled = filled.replace('"host": "gateway.example.com"', f'"host": "{host}"')
    return filled.replace('"schemes": ["https"]', f'"schemes": ["{scheme}"]').encode()


def _address() -> str:
    """As the reader reached it. A host that could be more than a host is never written into a script."""
    found = request.root_url.rstrip("/")
    return found if _ADDRESS.fullmatch(found) else PLACEHOLDER
