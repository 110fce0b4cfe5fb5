"""What the seeds print, played over HTTP: field names and types to the letter, texts as the simulator is told them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.actors import Caller, access_token
from tests.conftest import MakeApp, provider_environment
from tests.places import Place, as_json, place
from tests.upstream import Upstream, faults

SEEDS = [json.loads(path.read_text()) for path in sorted(Path(__file__).parent.glob("s*.json"))]
EXTERNAL = "https://external-api.com/endpoint"
"""Where the seed's external calls go; a place on loopback stands for it."""
TYPES: dict[str, type | tuple[type, ...]] = {"string": str, "number": (int, float), "object": dict, "array": list}


def script(upstream: Upstream, told: dict[str, Any]) -> None:
    """What the provider says to the next request; a status is what it says to all of them."""
    if "status" in told:
        upstream.script(faults.status(told["status"]))
        return
    behaviour = faults.text(told["text"])
    if "model" in told:
        behaviour += faults.model_name(told["model"])
    if "input" in told:
        behaviour += faults.usage(input=told["input"], output=told["output"])
    upstream.script(behaviour, times=1)


def fill(value: Any, known: dict[str, str]) -> Any:
    """The seed's own placeholders for tokens, replaced by real ones."""
    if isinstance(value, dict):
        return {name: fill(held, known) for name, held in value.items()}
    if not isinstance(value, str):
        return value
    if value in known:
        return known[value]
    return value.format_map(known) if value.startswith("Bearer {") else value


def differences(printed: Any, answered: Any, more: dict[str, list[str]], where: str = "") -> list[str]:
    """Where an answer departs from what is printed: a field too few, too many, of another type or value."""
    if isinstance(printed, dict) and "$type" in printed:
        return [] if isinstance(answered, TYPES[printed["$type"]]) else [f"{where} is {answered!r}"]
    if isinstance(printed, dict) and isinstance(answered, dict):
        expected, found = [*printed, *more.get(where, [])], list(answered)
        faults_here = [f"{where}: fields {sorted(found)}"] if sorted(expected) != sorted(found) else []
        inner = [(f"{where}.{name}".lstrip("."), held, answered.get(name)) for name, held in printed.items()]
        return faults_here + [fault for path, held, told in inner for fault in differences(held, told, more, path)]
    if isinstance(printed, list) and isinstance(answered, list) and len(printed) == len(answered):
        places = enumerate(zip(printed, answered, strict=True))
        return [fault for at, pair in places for fault in differences(*pair, more, f"{where}[{at}]")]
    same = type(printed) is type(answered) and printed == answered
    return [] if same else [f"{where} is {answered!r} and not {printed!r}"]


def pick(body: Any, path: str) -> str:
    for name in path.split("."):
        body = body[name]
    return str(body)


def written_out(body: Any) -> Any:
    """The printed answer; a long one stands in a file of its own."""
    if isinstance(body, dict) and "$file" in body:
        return json.loads((Path(__file__).parent / body["$file"]).read_text(encoding="utf-8"))
    return body


def play(http: FlaskClient, step: dict[str, Any], known: dict[str, str]) -> None:
    request = step["request"]
    headers = fill(request.get("headers", {}), known)
    if step.get("signed_in"):
        headers["Authorization"] = f"Bearer {known['access_token']}"
    if step.get("with_token"):
        headers["Authorization"] = f"Bearer {known['token']}"
    body = json.dumps(fill(request["body"], known)) if "body" in request else None
    path = request["path"].replace("your_api_token", known.get("your_api_token", ""))
    response = http.open(path, method=request["method"], headers=headers, data=body)
    assert response.status_code == step["answer"]["status"], (step["title"], response.get_data(as_text=True))
    assert differences(written_out(step["answer"]["body"]), response.json, step.get("more", {})) == [], step["title"]
    known.update({name: pick(response.json, path) for name, path in step.get("keep", {}).items()})


def arrived(target: Place) -> dict[str, Any] | None:
    """What came to the seed's external API: its first line, the headers that the seed prints, its body."""
    if not target.requests:
        return None
    head, _, body = target.requests.pop().decode().partition("\r\n\r\n")
    line, *fields = head.split("\r\n")
    printed = [field for field in fields if field.startswith(("X-API-Key", "Content-Type"))]
    return {"line": line, "headers": printed, "body": body}


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: seed["seed"])
def test_every_printed_example_is_answered_as_it_is_printed(seed: Any, make_app: MakeApp, upstream: Upstream) -> None:
    environment = dict(seed["environment"])
    known: dict[str, str] = {}
    if "API_TOKEN" in environment:
        environment["API_TOKEN"] = known["your_api_token"] = "a-token-of-the-operators-own-0123456789"
    app = make_app(**provider_environment(upstream, seed["provider"]), **environment)
    http, known["token"] = app.test_client(), Caller.on(app).token
    if seed.get("administrator"):
        known["access_token"] = access_token(app, "root", admin=True)
    with place(as_json({"ok": True})) as target:
        known[EXTERNAL] = f"http://127.0.0.1:{target.port}/endpoint"
        for step in seed["steps"]:
            upstream.unscript()
            if "upstream" in step:
                script(upstream, step["upstream"])
            play(http, step, known)
            assert arrived(target) == step.get("arrives"), step["title"]


def test_the_seeds_limit_answers_429(make_app: MakeApp, upstream: Upstream) -> None:
    """S3's table: 429, rate limit exceeded; ``RATE_LIMIT`` is S3's name of the setting."""
    token = "a-token-of-the-operators-own-0123456789"
    environment = provider_environment(upstream, "openai")
    http = make_app(**environment, API_TOKEN=token, RATE_LIMIT="2", RATE_LIMIT_PER_MINUTE="").test_client()
    statuses = [
        http.post("/api/v1/webhook", json={"prompt": "Test prompt"}, headers={"X-API-Token": token}).status_code
        for _ in range(3)
    ]
    assert statuses == [200, 200, 429]
