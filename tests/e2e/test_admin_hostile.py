"""The corpus' group ``xss`` in Chromium: what users, models and providers say is stored through the real doors, and an
administrator looks at every page that there is. Nothing runs, nobody else is asked, and it is all there to be read.

One gateway and one walk for all cases; each then looks at what the walk found.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest

from flaskllm.domain.audit import MASK
from tests.conftest import provider_environment
from tests.corpus.test_pages import CASES
from tests.e2e import servers
from tests.e2e.administrators import Administrator, gateway_with_administrators
from tests.e2e.browsers import looked_at
from tests.e2e.screenshots import navigation_of
from tests.people import PASSWORD
from tests.upstream import RemoteUpstream, faults

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

STORED = [case for case in CASES if case["group"] == "xss" and "payload" in case["input"]]
PAYLOADS = {case["id"]: case["input"]["payload"] for case in STORED}
SHOWN = {
    "token name": "/admin/tokens",
    "provider display_name": "/admin/providers",
    "template name": "/admin/templates",
    "custom_id": "/admin/batches",
    "model output": "/admin/batches",
    "upstream error": "/admin/batches",
    "X-User-Id": "/admin/requests",
}
"""Where people read it; a template's name cannot be such, so that it is the words of one. The trail of what was changed
(`/admin/audit`) has token and provider too."""
ELSEWHERE = {"prompt", "user agent"}
"""A prompt stands in the answer that repeats it; the other is kept nowhere."""
MOST_OF_A_KIND, MOST_BEHIND = 32, 3
"""Pages of one kind that are walked: two for each case, and some that were there; fewer of what lies behind these."""
ACTS = re.compile(r"\bon\w+=|<script|javascript:|<link|<form", re.IGNORECASE)
INERT = re.compile(r"<template>.*</template>|^<!--(?!.*-->)")
LIKE_A_KEY = re.compile(r"\w{32,}")
NOT_PUT_IN = {"XSS-019"}
"""A refresh: no policy has a word for it, so that it must not come to be a tag at all."""
PUT_IN = """async markup => {
  window.blocked = [];
  document.addEventListener('securitypolicyviolation', seen => window.blocked.push(seen.effectiveDirective));
  const box = document.createElement('div');
  document.body.append(box);
  box.innerHTML = markup;
  for (const old of box.querySelectorAll('script')) {
    const fresh = document.createElement('script');
    fresh.textContent = old.textContent;
    old.replaceWith(fresh);
  }
  box.querySelectorAll('a').forEach(link => link.click());
  box.querySelectorAll('form[action]').forEach(form => form.submit());
  await new Promise(drawn => requestAnimationFrame(() => requestAnimationFrame(drawn)));
}"""
READ = """() => {
  const fields = [...document.querySelectorAll('main input, main textarea')].map(field => field.value);
  return [document.querySelector('main').textContent, ...fields].join('\\n');
}"""
LIVE = """() => [...document.querySelectorAll('*')].filter(one =>
  [...one.attributes].some(each => /^on/.test(each.name) || /^\\s*(javascript|data:text)/i.test(each.value))
  || one.matches('script:not([src]), style, iframe, meta[http-equiv], main img, main link, main math')
  || /evil\\.example/.test(one.getAttribute('action') || one.getAttribute('href') || one.getAttribute('src') || '')
).map(one => one.outerHTML.slice(0, 200))"""


@dataclass
class Walk:
    """What an administrator found: the words of each page, and all that was noticed."""

    words: dict[str, str] = field(default_factory=dict)
    live: dict[str, list[str]] = field(default_factory=dict)
    dialogs: list[str] = field(default_factory=list)
    strangers: set[str] = field(default_factory=set)
    complaints: list[str] = field(default_factory=list)
    navigation: list[str] = field(default_factory=list)

    def says(self, text: str, under: str) -> bool:
        """Or what is left of it where secrets are masked, should a part of it look like one."""
        told = {text, LIKE_A_KEY.sub(MASK, text)}
        found = [words for address, words in self.words.items() if address.startswith(under)]
        return any(one in words for words in found for one in told)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, remote_simulator: RemoteUpstream) -> Iterator[servers.Gateway]:
    remote_simulator.reset()
    environment = provider_environment(remote_simulator, "openai")  # type: ignore[arg-type]
    with gateway_with_administrators(tmp_path_factory.mktemp("hostile"), "root", **environment) as running:
        store_everything(running, remote_simulator)
        yield running
    remote_simulator.reset()


def store_everything(gateway: servers.Gateway, upstream: RemoteUpstream) -> None:
    """Each payload in each place that the corpus names, through the door that takes it."""
    _, session, _ = gateway.post("/api/auth/login", {"username": "root", "password": PASSWORD})
    admin = session["data"]["access_token"]

    def taken(path: str, body: Any, *, status: int = 200, token: str = admin, **headers: str) -> Any:
        found, document, _ = gateway.post(path, body, token, **headers)
        assert found == status, (path, document)
        return document

    for model in ("gpt-4o-mini", "gpt-4.1"):
        asked = [{"custom_id": payload, "prompt": payload} for payload in PAYLOADS.values()]
        job = {"requests": asked, "model": f"openai/{model}", "max_concurrency": 1}
        taken("/v1/batch/generate", job, status=202)
    for payload in PAYLOADS.values():
        upstream.script(faults.status(400, message=payload), model="gpt-4.1", times=1)
    gateway.flask("worker", "--once")
    for number, payload in enumerate(PAYLOADS.values()):
        said = [{"role": "user", "content": payload}]
        made = taken("/api/tokens", {"name": payload, "scopes": ["chat", "batch"]}, status=201)
        own = {
            "provider_id": f"own-{number}", "display_name": payload, "description": payload,
            "provider_type": "openai_compatible", "connection_params": {"api_base": upstream.llama_base},
            "models": [{"model_id": "m", "display_name": payload}],
        }  # fmt: skip
        taken("/providers", own, status=201)
        taken("/api/v1/templates", {"name": payload, "user_text": "x"}, status=400)
        template = {"name": f"hostile-{number}", "description": payload, "system_text": payload, "user_text": payload}
        taken("/api/v1/templates", template, status=201)
        about = {"User-Agent": payload, "X-User-Id": payload, "X-Client-Id": payload}
        token = made["data"]["token"]
        taken("/llm/chat", {"message": payload}, token=token, **about)
        upstream.script(faults.status(400, message=payload), model="gpt-4o", times=1)
        refused = {"model": "openai/gpt-4o", "messages": said}
        taken("/v1/chat/completions", refused, token=token, status=400, **about)


@pytest.fixture(scope="module")
def walk(gateway: servers.Gateway, browser: Any) -> Walk:
    found = Walk()
    with looked_at(browser) as seen:
        administrator = Administrator(gateway, seen)
        administrator.signs_in()
        found.navigation = navigation_of(seen.page)
        waiting, kinds = list(found.navigation), dict[str, int]()
        while waiting:
            address = waiting.pop(0)
            path = urlsplit(address).path
            parts = path.split("/")
            kind = f"{parts[2]} {len(parts)}"
            most = MOST_OF_A_KIND if len(parts) <= 5 else MOST_BEHIND
            if path in found.words or kinds.get(kind, 0) >= most:
                continue
            kinds[kind] = kinds.get(kind, 0) + 1
            seen.page.goto(gateway.url + address)
            found.words[path] = seen.page.evaluate(READ)
            found.live[path] = seen.page.evaluate(LIVE)
            waiting += links_of(seen.page)
        found.dialogs, found.complaints = seen.dialogs, seen.complaints
        found.strangers = seen.strangers(gateway.url)
    return found


def links_of(page: Any) -> list[str]:
    """Where one goes on to by a click, but for files, and for what a page has many of."""
    links = page.locator("main a[href^='/admin/']:not([download])").all()
    addresses = [link.get_attribute("href") for link in links]
    return [one for one in addresses if not re.search(r"/export|/results|format=|[?&](after|before)=", one)]


def cases() -> list[Any]:
    return [pytest.param(case, id=case["id"]) for case in STORED]


def test_every_page_was_looked_at(walk: Walk) -> None:
    assert len(walk.navigation) >= 9
    assert walk.words.keys() >= set(walk.navigation)
    assert set(SHOWN.values()) <= set(walk.navigation)
    assert sum(bool(re.fullmatch(r"/admin/providers/own-\d+", path)) for path in walk.words) == len(STORED)


def test_nothing_ran_nobody_was_asked_and_no_page_complained(walk: Walk) -> None:
    assert walk.dialogs == []
    assert walk.strangers == set()
    assert walk.complaints == []
    assert {path: parts for path, parts in walk.live.items() if parts} == {}


@pytest.mark.parametrize("case", cases())
def test_what_was_stored_is_read_as_text(case: dict[str, Any], walk: Walk) -> None:
    """In each of the places that the corpus names; TOKEN-MANAGE-017's is XSS-002's."""
    payload, places = case["input"]["payload"], case["input"]["stored_as"]
    assert set(places) <= SHOWN.keys() | ELSEWHERE
    missing = [place for place, under in SHOWN.items() if not walk.says(payload, under)]
    assert missing == []
    assert walk.says(payload, "/admin/audit")


@pytest.mark.parametrize("case", cases())
def test_even_as_a_part_of_a_page_it_would_not_run(
    case: dict[str, Any], gateway: servers.Gateway, browser: Any
) -> None:
    """What the policy is for, should a page ever make a mistake."""
    payload = case["input"]["payload"]
    if case["id"] in NOT_PUT_IN:
        assert "http-equiv" in payload
        return
    with looked_at(browser) as seen:
        seen.page.goto(f"{gateway.url}/admin/sign-in")
        seen.page.evaluate(PUT_IN, payload)
        if ACTS.search(payload) and not INERT.search(payload):
            seen.eventually("window.blocked.length > 0")
        assert seen.dialogs == []
        assert seen.page.url == f"{gateway.url}/admin/sign-in"


def test_a_path_that_is_not_there_runs_nothing(gateway: servers.Gateway, browser: Any) -> None:
    """XSS-028."""
    with looked_at(browser) as seen:
        answer = seen.page.goto(f"{gateway.url}/nonexistent/<script>alert(1)</script>")
        assert answer.status == 404
        assert answer.headers["content-type"].startswith("application/json")
        assert seen.dialogs == []


def test_the_document_s_page_takes_no_address_from_elsewhere(gateway: servers.Gateway, browser: Any) -> None:
    """XSS-029."""
    with looked_at(browser) as seen:
        answer = seen.page.goto(f"{gateway.url}/docs?url=https://evil.example/openapi.json")
        assert answer.status == 400
        seen.page.goto(f"{gateway.url}/docs#?url=https://evil.example/openapi.json")
        seen.page.wait_for_selector(".opblock-tag")
        assert seen.page.locator(".info .title").inner_text().startswith("FlaskLLM")
        assert seen.strangers(gateway.url) == set()
