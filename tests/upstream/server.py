"""`Upstream`: the listening socket, a thread for each connection, and the way of a request from prefix to delivery."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import ssl
import tempfile
import threading
from collections import deque
from functools import partial
from pathlib import Path
from typing import Any, Self

from . import control, endpoints, images
from .addresses import Addresses
from .anthropic_wire import AnthropicWire
from .compatible import AzureWire, GrokWire, Interstitial, LooseWire, NgrokWire
from .core import Answer, Ask, Refusal, compose
from .faults import Behaviour, Call, behaviour
from .gemini_wire import GeminiWire
from .ledger import PAYING, BillRow, Ledger, Script, Seen
from .openai_wire import OpenAIWire
from .transport import BadFraming, Connection, PeerGone, Reply, Request, deliver, reusable
from .vendor import Keys, Wire

WIRES: dict[str, type[Wire]] = {
    "openai": OpenAIWire,
    "azure": AzureWire,
    "azure-east": AzureWire,
    "azure-west": AzureWire,
    "anthropic": AnthropicWire,
    "gemini": GeminiWire,
    "grok": GrokWire,
    "ngrok": NgrokWire,
    "llama": LooseWire,
}
CANARY_KEYS = {
    "openai": "sk-sim-openai-CANARY-4f1c9a7be2d84c06",
    "azure": "sim0azure0CANARY07d3e5b1c9f2a4866",
    "azure-east": "sim0azure0east0CANARY0a91b6c3d7e2",
    "azure-west": "sim0azure0west0CANARY05c2e8f4b1d3",
    "anthropic": "sk-ant-sim-CANARY-93b7e1d05ac24f68",
    "gemini": "AIzaSimCANARY-2c8e6f10b4d97a3512345",
    "grok": "xai-sim-CANARY-6d2f8b3c1e9a4705",
    "ngrok": "sk-sim-ngrok-CANARY-1b7d4e",
    "llama": "sk-sim-llama-CANARY-8e3a5c",
}
BACKLOG = 4096
MALFORMED = (AttributeError, IndexError, KeyError, TypeError, ValueError)


class Upstream(Addresses):
    """All providers on one port of 127.0.0.1. Use as a context manager; everything is thread-safe.

    `keys` maps vendor → the key it takes; `keep` bounds the remembered requests.
    """

    def __init__(self, port: int = 0, *, tls: bool = False, host: str = "127.0.0.1", keep: int = 10_000) -> None:
        self.keys: dict[str, str] = dict(CANARY_KEYS)
        self.ledger = Ledger(keep)
        self.ca_file: Path | None = None
        self._keys = Keys(self.keys)
        self._wires = {vendor: wire(vendor, self._keys) for vendor, wire in WIRES.items()}
        self._host = host
        self._folder = Path(tempfile.mkdtemp(prefix="upstream-"))
        self._context: ssl.SSLContext | None = None
        if tls:
            self.ca_file, self._context = endpoints.authority(self._folder)
        self._listener = socket.create_server((host, port), backlog=BACKLOG)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://{host}:{self.port}"
        self._connections: set[socket.socket] = set()
        self._held: list[socket.socket] = []
        self._endpoints: dict[str, str] = {}
        self._lock = threading.Lock()
        self._closing = False
        for wire in self._wires.values():
            if isinstance(wire, OpenAIWire):
                wire.base = self.url

    # --- life -----------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        threading.Thread(target=self._accept, name="upstream-accept", daemon=True).start()
        return self

    def close(self) -> None:
        """Stop listening and cut every connection; hanging requests end."""
        self._closing = True
        with self._lock:
            doomed = [self._listener, *self._connections]
        for sock in doomed:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for sock in (self._listener, *self._held):
            sock.close()
        self.ledger.wait_idle(2)
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- what a test says and asks --------------------------------------------------------------------------------

    def script(
        self,
        what: Behaviour | str,
        *,
        vendor: str | None = None,
        model: str | None = None,
        route: str | None = None,
        key: str | None = None,
        times: int | None = None,
    ) -> None:
        """Let matching requests be answered so: the next `times`, or all until `reset`. Counted scripts go first, in
        order; of lasting ones the latest counts. Without a route only chat, embeddings and images match; a request
        that is refused by the rules uses nothing up."""
        self.ledger.add_script(Script(behaviour(what), vendor, model, route, key, times))

    def plan(self, steps: dict[str, list[Behaviour]]) -> None:
        """Let the first request with this mark in its prompt be answered by the first behaviour, and so on; those
        beyond them by what is scripted. Marks are words like `mark-17`."""
        with self.ledger.changed:
            self.ledger.plans.update({mark: deque(ones) for mark, ones in steps.items()})

    def unscript(self) -> None:
        with self.ledger.changed:
            self.ledger.scripts.clear()

    def reset(self) -> None:
        """Forget scripts, requests, bill, peaks and key changes."""
        self.ledger.reset()
        self.keys.update(CANARY_KEYS)
        self._keys.more.clear()
        self._keys.revoked.clear()

    @property
    def requests(self) -> list[Seen]:
        with self.ledger.changed:
            return list(self.ledger.seen)

    @property
    def bill(self) -> list[BillRow]:
        with self.ledger.changed:
            return list(self.ledger.bill)

    @property
    def stats(self) -> dict[str, Any]:
        """open, peak_open, in_flight, peak_in_flight, connections, and requests per vendor."""
        return self.ledger.stats()

    def wait_idle(self, timeout: float = 5) -> bool:
        """True as soon as no request is in flight, False when one still is after `timeout` seconds."""
        return self.ledger.wait_idle(timeout)

    def accept_key(self, vendor: str, key: str) -> str:
        """One more key that this vendor takes."""
        self._keys.more.setdefault(vendor, set()).add(key)
        return key

    def revoke_key(self, key: str) -> None:
        self._keys.revoked.add(key)

    def azure_region(self, name: str) -> tuple[str, str]:
        """(endpoint, key) of an independent region: east or west."""
        return f"{self.url}/azure-{name}", self.keys[f"azure-{name}"]

    def endpoint(self, kind: str) -> str:
        """A URL at which nothing good happens: closed (refuses), silent (accepts, stalls), black_hole (no SYN-ACK)."""
        with self._lock:
            if kind not in self._endpoints:
                address, held = endpoints.KINDS[kind](self._host)
                self._endpoints[kind] = address
                self._held += held
        return f"{self.url.partition(':')[0]}://{self._endpoints[kind]}"

    # --- connections ----------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        while not self._closing:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), name="upstream-connection", daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with self.ledger.changed:
            self.ledger.counters["connections"] += 1
        try:
            with self.ledger.counted("open"):
                self._converse(self._context.wrap_socket(sock, server_side=True) if self._context else sock)
        except (OSError, PeerGone):
            pass  # the peer broke off: that is its right, and often the point of the test
        finally:
            sock.close()

    def _converse(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._connections.add(sock)
        conn = Connection(sock)
        try:
            while not self._closing and (request := conn.read_request()) is not None:
                reply = self._answer(conn, request)
                if not reusable(conn, reply) or request.headers.get("connection", "").lower() == "close":
                    return
        except BadFraming as problem:
            deliver(conn, Reply(400, {"connection": "close"}, json.dumps({"error": str(problem)}).encode()))
        finally:
            with self._lock:
                self._connections.discard(sock)
            conn.close()

    def _answer(self, conn: Connection, request: Request) -> Reply:
        prefix, _, rest = request.path.removeprefix("/").partition("/")
        if prefix in self._wires:
            with self.ledger.counted("in_flight"):
                return self._answer_vendor(conn, request, self._wires[prefix], f"/{rest}")
        if prefix == "_control":
            reply = control.answer(self, request, f"/{rest}")
        elif prefix == "images":
            status, kind, body = images.fetch(f"/{rest}")
            self.ledger.note("images", request, None).status = status
            reply = Reply(status, {"content-type": kind}, body)
        else:
            self.ledger.note("elsewhere", request, None).status = 404
            reply = Reply(404, {"content-type": "text/plain"}, b"nobody lives here")
        deliver(conn, reply)
        return reply

    def _answer_vendor(self, conn: Connection, request: Request, wire: Wire, path: str) -> Reply:
        number = self.ledger.next_number()
        seen = self.ledger.note(wire.vendor, request, wire.key(request))
        call: Call | None = None
        try:
            ask = _accepted(wire, request, path)
            call = Call(wire, ask, compose(ask, number), request, seen.key)
            seen.model, seen.route = ask.model, ask.route
            reply = self._reply(call)
        except Refusal as refusal:
            seen.error = refusal.message
            reply = Reply(
                refusal.status, {**wire.headers(number), **refusal.headers}, json.dumps(wire.error(refusal)).encode()
            )
            call = _refused_call(wire, request, path, number, seen)
        except Interstitial:
            reply = Reply(200, {"content-type": "text/html", "ngrok-error-code": "ERR_NGROK_6024"}, Interstitial.page)
        seen.status = reply.status if reply.head else 0
        if call is not None and call.ask.route in PAYING:
            deliver(conn, reply, partial(self.ledger.charge, call, reply))
        else:
            deliver(conn, reply)
        return reply

    def _reply(self, call: Call) -> Reply:
        how = self.ledger.take_script(call)
        how.change_answer(call.answer, call)
        reply = Reply(headers=call.wire.headers(call.answer.number))
        if call.ask.stream:
            reply.frames = call.wire.frames(call.ask, call.answer)
        else:
            reply.body = json.dumps(call.wire.plain(call.ask, call.answer)).encode()
        how.change_reply(reply, call)
        return reply


def _accepted(wire: Wire, request: Request, path: str) -> Ask:
    """What the wire reads; a shape that trips its reader is one that the real service refuses as well."""
    try:
        return wire.accept(request, path)
    except MALFORMED as problem:
        refusal = wire.typical(400)
        refusal.message = f"Invalid request: {problem!r}"
        raise refusal from problem


def _refused_call(wire: Wire, request: Request, path: str, number: int, seen: Seen) -> Call:
    """A refused call has a bill row too, with nothing on it: the ledger under test must agree that it was free."""
    body = request.json()
    named = body.get("model") if isinstance(body, dict) else None
    found = re.search(r"(?:models|deployments)/([^/:]+)", path)
    seen.model = str(named or (found[1] if found else ""))
    seen.route = next(
        (
            route
            for mark, route in (
                ("embed", "embeddings"),
                ("images/", "images"),
                ("models", "models"),
                ("count_tokens", "count_tokens"),
            )
            if mark in path.lower()
        ),
        "chat",
    )
    if "enerateContent" in path:
        seen.route = "chat"
    return Call(wire, Ask(wire.vendor, seen.route, seen.model), Answer(number), request, seen.key)
