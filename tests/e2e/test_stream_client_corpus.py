"""Every case of ``tests/corpus/stream_client.json`` (callers of streams that go away or are odd), by its id, against
real processes; and the same hang-ups at every frame for each vendor's wire.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from flaskllm.services.chat_stream import DRAINS
from tests.conftest import provider_environment
from tests.e2e.servers import Gateway, gunicorn
from tests.e2e.test_kills import rows
from tests.upstream import RemoteUpstream, faults

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.alone]
CASES: tuple[dict[str, Any], ...] = tuple(
    json.loads((Path(__file__).parent.parent / "corpus" / "stream_client.json").read_text(encoding="utf-8"))
)
WORDS = " ".join(f"word{number}" for number in range(12))
LONG = "x" * 20_000
"""A word of which a few hundred fill every buffer between a provider and a caller who does not read."""
STALLED = 200
"""Callers who stop reading at once, as the corpus has it."""
VENDORS = {
    "openai": "gpt-4o",
    "azure_openai": "azure_openai/gpt-4o",
    "anthropic": "claude-haiku-4-5",
    "gemini": "gemini/gemini-2.5-flash",
}
TIMES = {"REQUEST_TIMEOUT": "8", "STREAM_MAX_SECONDS": "8", "LEASE_GRACE": "1", "GRACEFUL_TIMEOUT": "6"}


@pytest.fixture
def gateway(remote_simulator: RemoteUpstream, upstream: RemoteUpstream, tmp_path: Path) -> Iterator[Gateway]:
    """Of its own: cases end its processes."""
    environment = provider_environment(remote_simulator)  # type: ignore[arg-type]
    with gunicorn(tmp_path, WEB_CONCURRENCY="1", STREAM_PING_EVERY="1", **TIMES, **environment) as running:
        yield running


def begin(gateway: Gateway, token: str, *, model: str = "gpt-4o", receive: int = 0, **headers: str) -> socket.socket:
    """A connection with a streamed question on it; ``receive``: bytes of its buffer."""
    body = json.dumps({"model": model, "stream": True, "messages": [{"role": "user", "content": "hello"}]})
    sent = {
        "Host": "x", "Authorization": f"Bearer {token}", "Content-Type": "application/json",
        "Content-Length": str(len(body)), "Connection": "close", **headers,
    }  # fmt: skip
    sock = socket.socket()
    if receive:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
    sock.settimeout(60)
    sock.connect(("127.0.0.1", gateway.port))
    head = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
    sock.sendall(f"POST /v1/chat/completions HTTP/1.1\r\n{head}\r\n{body}".encode())
    return sock


def read_frames(sock: socket.socket, count: int) -> bytes:
    """On to so many frames with data; with none, to the headers."""
    seen = b""
    while b"\r\n\r\n" not in seen or len(re.findall(rb"^data: ", seen, re.MULTILINE)) < count:
        piece = sock.recv(65536)
        assert piece, seen
        seen += piece
    return seen


def read_all(sock: socket.socket) -> bytes:
    with sock:
        return b"".join(iter(lambda: sock.recv(65536), b""))


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def leave_in_silence(gateway: Gateway, upstream: RemoteUpstream, token: str) -> list[bytes]:
    upstream.script(faults.text(WORDS) + faults.gap(4, 2))
    with begin(gateway, token) as sock:
        return [read_frames(sock, 2)]


def leave_by_reset(gateway: Gateway, upstream: RemoteUpstream, token: str) -> list[bytes]:
    upstream.script(faults.text(WORDS) + faults.pace(50))
    sock = begin(gateway, token)
    seen = read_frames(sock, 3)
    reset(sock)
    return [seen]


def half_close(gateway: Gateway, upstream: RemoteUpstream, token: str) -> list[bytes]:
    upstream.script(faults.text(WORDS) + faults.pace(50))
    sock = begin(gateway, token)
    sock.shutdown(socket.SHUT_WR)
    whole = read_all(sock)
    assert b"word11" in whole
    assert b"data: [DONE]" in whole
    return [whole]


def stop_reading(gateway: Gateway, upstream: RemoteUpstream, token: str) -> list[bytes]:
    """Others are served meanwhile, and what they hold does not grow with the answers."""
    upstream.script(faults.text(LONG) + faults.endless(400))
    before = resident(gateway)
    stalled = [begin(gateway, token, receive=4096) for _ in range(STALLED)]
    upstream.script(faults.text(WORDS), model="gpt-4o-mini")
    for _ in range(5):
        assert gateway.get("/health/live")[0] == 200
    tries = (read_all(begin(gateway, token, model="gpt-4o-mini")) for _ in range(3))  # the simulator is busy too
    served = next((answer for answer in tries if b"data: [DONE]" in answer), b"")
    assert served
    assert resident(gateway) - before < 400 * 2**20
    for sock in stalled:
        reset(sock)
    return [served]


def accept_json(gateway: Gateway, upstream: RemoteUpstream, token: str) -> list[bytes]:
    upstream.script(faults.text(WORDS))
    whole = read_all(begin(gateway, token, Accept="application/json"))
    assert b"text/event-stream" in whole
    assert b"data: [DONE]" in whole
    return [whole]


def terminate(gateway: Gateway, upstream: RemoteUpstream, token: str) -> list[bytes]:
    upstream.script(faults.text(WORDS) + faults.pace(1000))
    sock = begin(gateway, token)
    seen = read_frames(sock, 3)
    (worker,) = gateway.children()
    os.kill(worker, signal.SIGTERM)
    seen += read_all(sock)
    assert b'"error"' in seen
    assert seen.endswith(b"\r\n0\r\n\r\n"), "the body has no end"
    return [seen]


def kill(gateway: Gateway, upstream: RemoteUpstream, token: str) -> list[bytes]:
    upstream.script(faults.text(WORDS) + faults.pace(1000))
    sock = begin(gateway, token)
    seen = read_frames(sock, 3)
    (worker,) = gateway.children()
    os.kill(worker, signal.SIGKILL)
    try:
        seen += read_all(sock)
    except ConnectionError:
        sock.close()
    assert b"[DONE]" not in seen
    wait_for(lambda: "interrupted" in states(gateway), gateway)
    return [seen]


PLAYERS: dict[str, Callable[[Gateway, RemoteUpstream, str], list[bytes]]] = {
    "disconnect while the upstream is silent (no yield)": leave_in_silence,
    "disconnect by RST": leave_by_reset,
    "half-close": half_close,
    "200 clients stop reading at once": stop_reading,
    "stream:true with Accept: application/json": accept_json,
    "SIGTERM of the worker in mid-stream": terminate,
    "SIGKILL of the worker in mid-stream": kill,
}
"""The corpus's words for what the caller does; each gives what it read of answers with a status."""


def states(gateway: Gateway) -> list[str]:
    return [state for (state,) in rows(gateway.folder, "SELECT state FROM attempts")]


def resident(gateway: Gateway) -> int:
    pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in gateway.children()]
    return sum(pages) * os.sysconf("SC_PAGE_SIZE")


def descriptors(gateway: Gateway) -> int:
    return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in gateway.children())


def wait_for(holds: Callable[[], bool], gateway: Gateway, seconds: float = 45) -> None:
    """Asking keeps the housekeeper awake, which begins with a process's first request."""
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until
        gateway.get("/health/live")
        time.sleep(0.1)


@pytest.mark.parametrize("case", [pytest.param(case, id=case["id"]) for case in CASES])
def test_case(case: dict[str, Any], gateway: Gateway, upstream: RemoteUpstream) -> None:
    token = gateway.token("--budget", "1000")
    read_all(begin(gateway, token))  # what is made once is made
    upstream.reset()
    before = descriptors(gateway)
    answers = PLAYERS[case["input"]["client"]](gateway, upstream, token)
    assert {int(one[9:12]) for one in answers} <= set(case["expect"]["status"])
    told = {name.partition(":")[0] for name in case["expect"]["assert"]}
    assert told == {
        "ledger.exact_or_flagged", "ledger.reserved_zero_after", "upstream.connections_zero_after", "fd.stable"
    }  # fmt: skip
    wait_for(lambda: "reserved" not in states(gateway), gateway)
    assert upstream.wait_idle(30)
    assert rows(gateway.folder, "SELECT DISTINCT reserved FROM budgets") == [(0,)]
    assert_exact_or_flagged(gateway, upstream)
    wait_for(lambda: descriptors(gateway) <= before + DRAINS + 16, gateway)  # idle connections to a provider are kept


def assert_exact_or_flagged(gateway: Gateway, upstream: RemoteUpstream) -> None:
    """Each call of the bill has a row: the same tokens, or marked; and no words are had for nothing."""
    found = rows(gateway.folder, "SELECT prompt_tokens, completion_tokens, estimated FROM attempts ORDER BY id")[1:]
    billed = sorted((row.input, row.output) for row in upstream.bill)
    assert len(found) == len(billed)
    for prompt, completion, estimated in found:
        assert estimated or (prompt, completion) in billed
    assert rows(gateway.folder, "SELECT 1 FROM attempts WHERE completion_tokens = 0 AND NOT estimated") == []


def test_the_cases_are_the_ones_that_are_played() -> None:
    assert sorted(case["input"]["client"] for case in CASES) == sorted(PLAYERS)


def test_who_hangs_up_at_any_frame_of_any_vendor_pays_the_bill(gateway: Gateway, upstream: RemoteUpstream) -> None:
    """Half of them with a RST; the bill is the vendor's, to the token, for every one."""
    token = gateway.token()
    read_all(begin(gateway, token))
    upstream.reset()
    upstream.script(faults.text("one two three four five six") + faults.pace(30))

    def leave(vendor: str, frames: int) -> None:
        sock = begin(gateway, token, model=VENDORS[vendor])
        read_frames(sock, frames)
        reset(sock) if frames % 2 else sock.close()

    with ThreadPoolExecutor(14) as pool:
        list(pool.map(lambda pair: leave(*pair), [(vendor, frames) for vendor in VENDORS for frames in range(7)]))
    wait_for(lambda: "reserved" not in states(gateway), gateway)
    assert upstream.wait_idle(30)
    query = "SELECT provider, state, prompt_tokens, completion_tokens, estimated FROM attempts ORDER BY id"
    found = rows(gateway.folder, query)[1:]
    assert sorted(found) == sorted([(vendor, "settled", 1, 6, 0) for vendor in VENDORS for _ in range(7)])
    assert [row.output for row in upstream.bill] == [6] * 7 * len(VENDORS)
