"""Going down in order: everybody who polls is woken, everything is put away, and no signal can hang the process."""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from flaskllm.services.chat_stream import Drains
from flaskllm.services.shutdown import MARGIN_S, Shutdown


@pytest.fixture
def shutdown() -> Iterator[Shutdown]:
    made = Shutdown(grace_s=MARGIN_S + 0.2)
    yield made
    made.stop()


def woken(descriptor: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def test_the_cut_wakes_all_who_poll_and_stays(shutdown: Shutdown) -> None:
    assert not woken(shutdown.fd, 0)
    shutdown.cut_streams()
    assert [woken(shutdown.fd, 1) for _ in range(3)] == [True] * 3


def test_all_who_come_at_once_poll_the_same_descriptor(shutdown: Shutdown) -> None:
    gate, found = threading.Barrier(20), []

    def ask() -> None:
        gate.wait()
        found.append(shutdown.fd)

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1


@pytest.mark.alone
def test_new_work_is_refused_at_once_and_streams_are_cut_when_the_time_is_nearly_over(shutdown: Shutdown) -> None:
    began = time.monotonic()
    shutdown.begin()
    shutdown.begin()
    assert shutdown.draining
    assert not shutdown.cut
    assert woken(shutdown.fd, 2)
    assert 0.15 < time.monotonic() - began < 1


def test_a_fault_at_the_end_does_not_keep_the_others_from_theirs() -> None:
    shutdown, done = Shutdown(grace_s=10), []
    shutdown.at_the_end(lambda: 1 / 0)
    shutdown.at_the_end(lambda: done.append("second"))
    shutdown.stop()
    assert done == ["second"]


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_stopping_leaves_no_descriptor() -> None:
    before = open_descriptors()
    for _ in range(5):
        made = Shutdown(grace_s=10)
        _ = made.fd
        made.stop()
    assert open_descriptors() == before


def test_sigterm_begins_it_closes_the_listeners_and_goes_on_to_gunicorns_own(shutdown: Shutdown) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    listener = socket.create_server(("127.0.0.1", 0))
    try:
        shutdown.watch(SimpleNamespace(sockets=[listener]))
        with threading._active_limbo_lock:  # type: ignore[attr-defined]  # as while gunicorn starts a thread
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)
        assert heard == [signal.SIGTERM]
        assert listener.fileno() == -1
        until = time.monotonic() + 2
        while not shutdown.draining and time.monotonic() < until:
            time.sleep(0.01)
        assert shutdown.draining
    finally:
        signal.signal(signal.SIGTERM, before)
        listener.close()


def test_drains_are_waited_for_but_not_for_ever() -> None:
    drains, done = Drains(threads=True, seconds=1), []
    drains.run(lambda _: (time.sleep(0.2), done.append(1)))
    drains.wait(2)
    assert done == [1]
    go_on = threading.Event()
    drains.run(lambda _: go_on.wait(5))
    began = time.monotonic()
    drains.wait(0.1)
    assert time.monotonic() - began < 3
    go_on.set()
    drains.wait(2)


def test_beyond_the_bound_there_is_no_drain() -> None:
    drains, go_on = Drains(threads=True, seconds=1, most=1), threading.Event()
    assert drains.run(lambda _: go_on.wait(5))
    assert not drains.run(lambda _: None)
    go_on.set()
    drains.wait(2)
    assert drains.run(lambda _: None)
    drains.wait(2)
