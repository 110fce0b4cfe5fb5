"""``/chat``: the files of the web chat, where they are switched on and nowhere else."""

from __future__ import annotations

import re

import pytest
from flask.testing import FlaskClient

from flaskllm.blueprints.chat_page import FILES, FOLDER
from tests.conftest import MakeApp

PATHS = ["/chat", *(f"/chat/{name}" for name in FILES)]


@pytest.fixture
def visitor(make_app: MakeApp) -> FlaskClient:
    return make_app(CHAT_PAGE="true").test_client()


@pytest.mark.parametrize("path", PATHS)
def test_it_is_not_there_unless_it_was_switched_on(client: FlaskClient, path: str) -> None:
    missing, nowhere = client.get(path), client.get("/nowhere")
    assert (missing.status_code, missing.json["error"]["code"]) == (404, "not_found")
    assert missing.json["error"]["message"] == nowhere.json["error"]["message"]


@pytest.mark.parametrize("path", PATHS)
def test_nothing_of_it_may_run_what_is_not_its_own(visitor: FlaskClient, path: str) -> None:
    answer = visitor.get(path)
    assert answer.status_code == 200
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == ("no-store" if path == "/chat" else "no-cache")
    assert "Set-Cookie" not in answer.headers


def test_every_file_of_the_folder_is_served_and_no_other(visitor: FlaskClient) -> None:
    assert {file.name for file in (FOLDER / "chat").iterdir()} == set(FILES)
    for name in ("README.md", "index.html", "..%2fREADME.md", "%2e%2e/README.md", "nothing.js", ""):
        assert visitor.get(f"/chat/{name}").status_code == 404, name


def test_the_page_has_nothing_inline_and_asks_nobody_else(visitor: FlaskClient) -> None:
    page = visitor.get("/chat").text
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:|https?://", page)
    assert re.findall(r"<script([^>]*)>", page) == [' src="chat/app.js" type="module"']


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".js")])
def test_no_script_makes_markup_of_a_text(visitor: FlaskClient, name: str) -> None:
    script = visitor.get(f"/chat/{name}").text
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|srcdoc", script)
