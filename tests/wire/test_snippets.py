"""A chat as code: each snippet says the very same, whatever stands in the texts."""

from __future__ import annotations

import ast
import json
import subprocess
from shutil import which
from typing import Any

import pytest

from flaskllm.wire.snippets import write_snippets

ADDRESS = "https://llm.example"
TEXTS = (
    "Hello",
    'it\'s "quoted" `x` $(id) $HOME \\ \\n !!',
    "line\nbreak\r\n\ttab",
    "ü 😀 \u2028 \x7f",
    "</script>{{ 7*7 }}{0}%s",
    "''' \"\"\" '\\''",
)


def body(text: str) -> dict[str, Any]:
    messages = [{"role": "system", "content": text}, {"role": "user", "content": text}]
    return {"model": text[:5], "messages": messages, "temperature": 0.2, "max_tokens": 100}


@pytest.mark.parametrize("text", TEXTS)
def test_curl_sends_the_body(text: str) -> None:
    code = 'curl() { printf "%s\\0" "$@"; }\n' + write_snippets(body(text), ADDRESS)["curl"]
    told = subprocess.run(["sh"], input=code.encode(), capture_output=True, check=True, timeout=60).stdout.decode()
    address, *words = told.split("\0")
    assert address == f"{ADDRESS}/v1/chat/completions"
    assert words[:4] == ["-H", "Authorization: Bearer YOUR_TOKEN", "-H", "Content-Type: application/json"]
    assert (words[4], json.loads(words[5])) == ("-d", body(text))


@pytest.mark.parametrize("text", TEXTS)
def test_python_asks_with_the_body(text: str) -> None:
    tree = ast.parse(write_snippets(body(text), ADDRESS)["python"])
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    given = {word.arg: ast.literal_eval(word.value) for call in calls for word in call.keywords}
    assert given == {"base_url": f"{ADDRESS}/v1", "api_key": "YOUR_TOKEN", **body(text)}


@pytest.mark.parametrize("text", TEXTS)
def test_javascript_sends_the_body(text: str) -> None:
    node = which("node")
    if node is None:
        pytest.skip("no node")
    spy = (
        "globalThis.fetch = async (address, how) => { console.log(JSON.stringify([address, how]));"
        " return {json: async () => ({choices: [{message: {content: ''}}]})}; };\n"
    )
    code = spy + write_snippets(body(text), ADDRESS)["javascript"]
    told = subprocess.run(
        [node, "--input-type=module", "-"], input=code, capture_output=True, text=True, check=True, timeout=60
    )
    address, how = json.loads(told.stdout.partition("\n")[0])
    assert (address, json.loads(how["body"])) == (f"{ADDRESS}/v1/chat/completions", body(text))
    assert how["headers"]["Authorization"] == "Bearer YOUR_TOKEN"


def test_without_a_model_python_s_package_is_told_to_let_the_gateway_choose() -> None:
    asked = {"messages": [{"role": "user", "content": "Hello"}]}
    found = write_snippets(asked, ADDRESS)
    assert 'model="auto"' in found["python"]
    assert "model" not in found["curl"]
