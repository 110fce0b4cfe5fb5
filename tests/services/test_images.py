"""Addresses of images become data; what is no image is refused by the field that named it."""

from __future__ import annotations

import base64
import copy
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from flaskllm.errors import ForbiddenTarget, InvalidRequest
from flaskllm.net.egress import PublicSession
from flaskllm.services.images import ImageInliner, media_type
from tests.places import serving

FILES = {
    "/a.png": b"\x89PNG\r\n\x1a\n" + b"p" * 20,
    "/a.jpg": b"\xff\xd8\xff\xe0" + b"j" * 20,
    "/a.gif": b"GIF89a" + b"g" * 20,
    "/a.webp": b"RIFF\0\0\0\0WEBPVP8 " + b"w" * 20,
    "/a.pdf": b"%PDF-1.7\n%%EOF",
    "/page": b"<html>",
    "/a.svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "/empty": b"",
}


class Shelf(BaseHTTPRequestHandler):
    """Says of everything that it is a PNG."""

    asked: list[str] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        body = FILES.get(self.path, b"")
        self.send_response(200 if self.path in FILES else 404)
        self.send_header("Content-Type", "image/png")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def shelf() -> Iterator[str]:
    Shelf.asked = []
    with serving(Shelf) as port:
        yield f"http://shelf.test:{port}"


def inliner(shelf: str, **options: Any) -> ImageInliner:
    session = PublicSession(
        private_hosts=[shelf.removeprefix("http://"), "closed.test:1"], resolve=lambda *_: ["127.0.0.1"]
    )
    return ImageInliner(session, **options)


def soon() -> float:
    return time.monotonic() + 5


def image(url: str, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **more}}


def ask(*parts: Any) -> list[dict[str, Any]]:
    return [{"role": "system", "content": "s"}, {"role": "user", "content": list(parts)}]


def as_data(path: str, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(FILES[path]).decode()}"


@pytest.mark.parametrize(
    "path, kind",
    [("/a.png", "image/png"), ("/a.jpg", "image/jpeg"), ("/a.gif", "image/gif"), ("/a.webp", "image/webp")],
)
def test_an_image_becomes_data_of_the_type_its_bytes_say(shelf: str, path: str, kind: str) -> None:
    text = {"type": "text", "text": "what is it?"}
    messages = ask(text, image(shelf + path, detail="low"))
    before = copy.deepcopy(messages)
    after = inliner(shelf).inline(messages, soon())
    assert after == ask(text, image(as_data(path, kind), detail="low"))
    assert messages == before


def test_what_needs_no_fetching_stays(shelf: str) -> None:
    data = image("data:image/png;base64,AAAA")
    file = {"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA", "filename": "x.pdf"}}
    messages = ask(data, file, {"type": "file", "file": {"file_id": "f"}}, {"type": "text", "text": "http://x.test/"})
    messages += [{"role": "assistant", "content": None}, {"role": "tool", "content": "http://x.test/"}]
    after = inliner(shelf).inline(messages, soon())
    assert after == messages
    assert after is not messages
    assert Shelf.asked == []


@pytest.mark.parametrize(
    "part", ["text", None, 5, {"type": "image_url"}, {"type": "image_url", "image_url": {"url": 5}}]
)
def test_a_part_of_another_shape_is_the_doors_business(shelf: str, part: Any) -> None:
    messages = ask(part, image(f"{shelf}/a.png"))
    assert inliner(shelf).inline(messages, soon())[1]["content"][0] == part


@pytest.mark.parametrize("name", ["file_url", "file_data"])
def test_a_file_becomes_data_with_a_name(shelf: str, name: str) -> None:
    after = inliner(shelf).inline(ask({"type": "file", "file": {name: f"{shelf}/a.pdf"}}), soon())
    expected = {"file_data": as_data("/a.pdf", "application/pdf"), "filename": "document.pdf"}
    assert after[1]["content"] == [{"type": "file", "file": expected}]
    named = inliner(shelf).inline(ask({"type": "file", "file": {name: f"{shelf}/a.pdf", "filename": "n.pdf"}}), soon())
    assert named[1]["content"][0]["file"]["filename"] == "n.pdf"


def test_an_address_that_stands_there_twice_is_fetched_once(shelf: str) -> None:
    after = inliner(shelf).inline(ask(image(f"{shelf}/a.png"), image(f"{shelf}/a.png")), soon())
    assert Shelf.asked == ["/a.png"]
    assert after[1]["content"][0] == after[1]["content"][1]


def test_who_fetches_images_is_given_files_all_the_same(shelf: str) -> None:
    image = {"type": "image_url", "image_url": {"url": f"{shelf}/a.png"}}
    asked = ask({"type": "file", "file": {"file_url": f"{shelf}/a.pdf"}}, image)
    file, left = inliner(shelf).inline(asked, soon(), images_stay=True)[1]["content"]
    assert file["file"]["file_data"] == as_data("/a.pdf", "application/pdf")
    assert (left, Shelf.asked) == (image, ["/a.pdf"])


@pytest.mark.parametrize("path", ["/page", "/a.svg", "/empty", "/a.pdf", "/missing"])
def test_what_is_no_image_is_refused_by_its_field(shelf: str, path: str) -> None:
    messages = [{"role": "user", "content": "a"}, *ask({"type": "text", "text": "b"}, image(shelf + path))]
    with pytest.raises(InvalidRequest) as caught:
        inliner(shelf).inline(messages, soon())
    assert caught.value.param == "messages[2].content[1].image_url.url"


def test_an_image_is_no_file(shelf: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        inliner(shelf).inline(ask({"type": "file", "file": {"file_url": f"{shelf}/a.png"}}), soon())
    assert caught.value.param == "messages[1].content[0].file.file_url"


@pytest.mark.parametrize(
    "url", ["ftp://x.test/a.png", "", "gs://bucket/a.png", "http:/x", "http://127.1/", " http://x"]
)
def test_an_address_of_another_kind_is_refused_by_its_field(shelf: str, url: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        inliner(shelf).inline(ask(image(url)), soon())
    assert caught.value.param == "messages[1].content[0].image_url.url"


def test_a_refused_target_stays_refused_and_names_the_field(shelf: str) -> None:
    with pytest.raises(ForbiddenTarget) as caught:
        inliner(shelf).inline(ask(image("http://169.254.169.254/x.png")), soon())
    assert caught.value.param == "messages[1].content[0].image_url.url"
    assert caught.value.message.startswith("messages[1].content[0].image_url.url: ")


def test_a_server_that_fails_is_told_by_the_field(shelf: str) -> None:
    for deadline, url in ((soon(), "http://closed.test:1/a.png"), (time.monotonic() - 1, f"{shelf}/a.png")):
        with pytest.raises(InvalidRequest, match="could not be fetched") as caught:
            inliner(shelf).inline(ask(image(url)), deadline)
        assert caught.value.param == "messages[1].content[0].image_url.url"


def test_one_image_has_a_size(shelf: str) -> None:
    size = len(FILES["/a.png"])
    assert inliner(shelf, most_bytes=size).inline(ask(image(f"{shelf}/a.png")), soon())
    with pytest.raises(InvalidRequest, match="larger"):
        inliner(shelf, most_bytes=size - 1).inline(ask(image(f"{shelf}/a.png")), soon())


def test_all_images_together_have_a_size(shelf: str) -> None:
    both = ask(image(f"{shelf}/a.png"), image(f"{shelf}/a.jpg"))
    size = len(FILES["/a.png"]) + len(FILES["/a.jpg"])
    assert inliner(shelf, most_together=size).inline(both, soon())
    with pytest.raises(InvalidRequest) as caught:
        inliner(shelf, most_together=size - 1).inline(both, soon())
    assert caught.value.param == "messages[1].content[1].image_url.url"


def test_more_images_than_sixteen_are_refused_before_any_is_fetched(shelf: str) -> None:
    parts = [image(f"{shelf}/a.png")] * 16
    assert inliner(shelf).inline(ask(*parts), soon())
    Shelf.asked.clear()
    with pytest.raises(InvalidRequest) as caught:
        inliner(shelf).inline(ask(*parts, image(f"{shelf}/a.png")), soon())
    assert caught.value.param == "messages[1].content[16].image_url.url"
    assert Shelf.asked == []


@pytest.mark.parametrize("data", [b"", b"BM", b"RIFF\0\0\0\0WAVE", b"\x89PNG", b"\0\0\0\x18ftypheic"])
def test_other_bytes_have_no_type(data: bytes) -> None:
    assert media_type(data) is None
