"""Chores: done when due, one failing keeps no other, and without threads the request that finds them due does them."""

from __future__ import annotations

import threading
import time

from flaskllm.services.housekeeper import Chore, Housekeeper


def test_a_chore_is_done_once_in_its_time() -> None:
    done: list[str] = []
    keeper = Housekeeper(
        [Chore("often", 0.0, lambda: done.append("often")), Chore("seldom", 60, lambda: done.append("seldom"))],
        threads=False,
    )
    for _ in range(3):
        keeper.wake()
    assert sorted(done) == ["often"] * 3 + ["seldom"]


def test_one_that_fails_keeps_no_other_and_is_tried_again() -> None:
    done: list[int] = []
    keeper = Housekeeper([Chore("bad", 0, lambda: 1 / 0), Chore("good", 0, lambda: done.append(1))], threads=False)
    keeper.wake()
    keeper.wake()
    assert done == [1, 1]


def test_one_thread_a_process_is_started_by_whoever_comes_first() -> None:
    done = threading.Event()
    keeper = Housekeeper([Chore("one", 0.05, done.set)], threads=True)
    threads = [threading.Thread(target=keeper.wake) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.name for one in threading.enumerate()].count("housekeeper") == 1
    assert done.wait(2)
    keeper.stop()
    until = time.monotonic() + 2
    while time.monotonic() < until and "housekeeper" in [one.name for one in threading.enumerate()]:
        time.sleep(0.02)
    assert "housekeeper" not in [one.name for one in threading.enumerate()]


def test_without_threads_nobody_waits_for_another_requests_chores() -> None:
    began, go_on = threading.Event(), threading.Event()
    keeper = Housekeeper([Chore("slow", 0, lambda: (began.set(), go_on.wait(5)))], threads=False)
    first = threading.Thread(target=keeper.wake)
    first.start()
    assert began.wait(2)
    at = time.monotonic()
    keeper.wake()
    assert time.monotonic() - at < 3
    go_on.set()
    first.join()


def test_whoever_ends_lets_the_chore_at_work_end_and_the_next_to_wake_begins_anew() -> None:
    began, go_on, done = threading.Event(), threading.Event(), threading.Semaphore(0)
    keeper = Housekeeper([Chore("slow", 0.01, lambda: (began.set(), go_on.wait(30), done.release()))], threads=True)
    keeper.wake()
    assert began.wait(30)
    threading.Timer(0.2, go_on.set).start()
    keeper.finish(30)
    assert done.acquire(blocking=False), "it was at work, and has ended"
    while done.acquire(blocking=False):
        pass
    keeper.wake()
    assert done.acquire(timeout=30)
    keeper.finish(30)


def test_whoever_ends_does_not_wait_for_a_chore_for_ever() -> None:
    began, go_on = threading.Event(), threading.Event()
    keeper = Housekeeper([Chore("stuck", 0.01, lambda: (began.set(), go_on.wait(60)))], threads=True)
    keeper.wake()
    assert began.wait(30)
    keeper.finish(0.05)
    assert not go_on.is_set()
    go_on.set()
