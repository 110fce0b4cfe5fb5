"""Batches at the administrators' pages in a real browser, with a real worker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import servers
from tests.e2e.administrators import LOOKS, PAYLOAD, Administrator, gateway_with_administrators
from tests.e2e.browsers import looked_at
from tests.e2e.openai_files import create, line, sdk
from tests.people import PASSWORD

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
STORY = "Tell the story of a lighthouse keeper, with all the ships that passed. " * 12


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Gateway]:
    with gateway_with_administrators(tmp_path_factory.mktemp("batches"), "root", "ann") as running:
        yield running


@pytest.fixture(scope="module")
def bob(gateway: servers.Gateway) -> str:
    """The id of somebody who sends batches."""
    account = {"username": "bob", "email": "bob@example.com", "password": PASSWORD}
    status, answer, _ = gateway.post("/api/auth/register", account)
    assert status == 201, answer
    user_id: str = answer["data"]["user"]["id"]
    return user_id


@pytest.fixture(scope="module")
def token(gateway: servers.Gateway, bob: str) -> str:
    status, answer, _ = gateway.post("/api/tokens", {"name": "batches"}, access_token(gateway, "bob"))
    assert status == 201, (answer, bob)
    text: str = answer["data"]["token"]
    return text


def access_token(gateway: servers.Gateway, name: str) -> str:
    _, answer, _ = gateway.post("/api/auth/login", {"username": name, "password": PASSWORD})
    access: str = answer["data"]["access_token"]
    return access


@pytest.fixture
def root(gateway: servers.Gateway, browser: Any) -> Iterator[Administrator]:
    with looked_at(browser) as seen:
        administrator = Administrator(gateway, seen)
        administrator.signs_in()
        yield administrator


def submit(gateway: servers.Gateway, token: str, *prompts: str, **more: Any) -> str:
    status, answer, _ = gateway.post("/v1/batch/generate", {"prompts": prompts, "model": "demo", **more}, token)
    assert status == 202, answer
    job_id: str = answer["job_id"]
    return job_id


@pytest.fixture(scope="module")
def jobs(gateway: servers.Gateway, token: str) -> list[str]:
    """One that is over and one that waits, some more, and files, a good one and a bad one."""
    over = submit(gateway, token, *(f"{number}: {STORY}" for number in range(60)), metadata={"for": PAYLOAD[:60]})
    more = [submit(gateway, token, PAYLOAD, "What is the capital of France?") for _ in range(3)]
    with sdk(gateway, token) as client:
        create(client, [line(str(number), "demo", "hello") for number in range(5)])
        bad = create(client, [b"{broken\n", line("a", "demo", "hello")])
    gateway.flask("worker", "--once")
    waits = submit(gateway, token, *(f"question {number}" for number in range(5)))
    return [over, waits, *more, bad.id.removeprefix("batch_")]


@pytest.mark.parametrize("look", LOOKS)
def test_every_page_is_sound(gateway: servers.Gateway, jobs: list[str], browser: Any, look: dict[str, Any]) -> None:
    over, waits, *_ = jobs
    with looked_at(browser, **look) as seen:
        administrator = Administrator(gateway, seen)
        administrator.signs_in("ann")
        administrator.finds_all_sound(["batches", "batches?state=failed"])
        for name, job_id in (("over", over), ("waits", waits)):
            administrator.goes(f"batches/{job_id}")
            administrator.finds_it_sound(f"batch-{name}")
        assert seen.dialogs == []


def test_a_job_is_watched_until_it_is_over_and_its_results_come_by_themselves(root: Administrator, token: str) -> None:
    job_id = submit(root.gateway, token, "one", PAYLOAD, max_concurrency=1)
    root.goes("batches?state=unfinished")
    row = root.page.locator(f"#live-{job_id}")
    assert row.inner_text().split() == ["queued", "0", "of", "2"]
    root.page.click(f"a[href$='{job_id}']")
    root.page.wait_for_selector("#now")
    assert root.page.locator("#rows .answer").all_inner_texts() == ["", ""]
    with looked_at(root.page.context.browser) as seen:
        other = Administrator(root.gateway, seen)
        other.signs_in("ann")
        other.goes("batches")
        with root.page.expect_request("**/progress") as looking:
            root.gateway.flask("worker", "--once")
        assert looking.value.headers["x-unattended"] == "1", "who only leaves a page open is not busy"
        root.page.wait_for_selector("#ended:has-text('The job is over: completed.')")
        other.page.wait_for_selector(f"#live-{job_id}:has-text('completed')")
        assert seen.complaints == []
    assert root.page.locator("#rows .answer").all_inner_texts() == ["[demo] one", f"[demo] {PAYLOAD}"]
    assert root.page.locator("#doings form").count() == 0
    asked = len(root.seen.asked)
    root.page.wait_for_timeout(2500)
    assert len(root.seen.asked) == asked, "what is over is not looked at again"
    assert (root.seen.complaints, root.seen.dialogs) == ([], [])


def test_results_are_taken_home_as_a_file(root: Administrator, jobs: list[str], tmp_path: Path) -> None:
    root.goes(f"batches/{jobs[0]}")
    with root.page.expect_download() as begun:
        root.page.click("text=CSV")
    kept = tmp_path / begun.value.suggested_filename
    begun.value.save_as(kept)
    assert kept.name == f"{jobs[0]}.csv"
    assert len(kept.read_text().splitlines()) == 61


def test_items_go_on_in_place_and_a_long_answer_is_opened(root: Administrator, jobs: list[str]) -> None:
    root.goes(f"batches/{jobs[0]}")
    assert root.page.locator("#rows tr").count() == 50
    root.page.click("#more a")
    root.page.wait_for_selector("#rows tr:nth-child(60)")
    assert root.page.locator("#more a").count() == 0
    root.page.locator("#rows summary").first.click()
    assert root.page.locator("#rows .answer").first.inner_text() == f"[demo] 0: {STORY}"


def test_a_job_is_cancelled_after_a_question(root: Administrator, token: str) -> None:
    job_id = submit(root.gateway, token, "one", "two")
    root.goes(f"batches/{job_id}")
    root.page.click("text=Cancel the job")
    root.page.wait_for_selector("#now .state:has-text('cancelled')")
    assert len(root.seen.dialogs) == 1
    root.page.click("text=What administrators did")
    assert root.page.locator("#rows tr").first.inner_text().split()[2:4] == ["root", "batch.cancel"]


def test_failed_items_are_asked_again(root: Administrator, token: str, bob: str) -> None:
    job_id = submit(root.gateway, token, "one", "two")
    access = access_token(root.gateway, "root")
    root.gateway.call("PATCH", f"/users/{bob}", {"status": "disabled"}, access)
    root.gateway.flask("worker", "--once")
    root.gateway.call("PATCH", f"/users/{bob}", {"status": "active"}, access)
    root.goes(f"batches/{job_id}?state=failed")
    assert root.page.locator("#rows .fault").count() == 2
    root.page.click("text=Ask the 2 failed again")
    root.page.wait_for_selector("#now .state:has-text('queued')")
    root.gateway.flask("worker", "--once")
    root.page.wait_for_selector("#ended:has-text('The job is over: completed.')")
    assert root.page.locator("#rows .answer").all_inner_texts() == ["[demo] one", "[demo] two"]
