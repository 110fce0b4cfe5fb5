"""The name server of the namespace: fixed names, names that turn, names that fail."""

from __future__ import annotations

import socket
import struct
import threading
from ipaddress import ip_address

from tests.e2e.walled.ground import BROKEN, OTHER, PUBLIC, PUBLIC_V6

A, AAAA = 1, 28
NAMES: dict[str, list[str]] = {
    "public.test": [PUBLIC],
    "v6.test": [PUBLIC_V6],
    "other.test": [OTHER],
    "external-api.com": [PUBLIC],
    "xn--bcher-kva.test": [PUBLIC],
    "private.test": ["10.0.0.5"],
    "hosted.test": ["10.0.0.5"],
    "mixed.test": [PUBLIC, "127.0.0.1"],
    "mixed6.test": [PUBLIC, "fd00:ec2::254"],
    "mapped.test": [f"::ffff:{PUBLIC}"],
    "nat64.test": ["64:ff9b::a9fe:a9fe"],
    "linklocal.test": ["fe80::1"],
    "wire.test": ["168.63.129.16"],
    "zone.test": ["fe80::1"],
    "sub.localhost": ["127.0.0.1"],
    "o.test": ["127.0.0.1"],
    "xn--" + "\u0660".encode("punycode").decode() + ".test": ["127.0.0.1"],
    "metadata.google.internal": ["169.254.169.254"],
    "localhost": ["127.0.0.1"],
    **{f"{name}{end}": ["169.254.169.254"] for name in ("metadata", "instance-data") for end in ("", ".corp.test")},
    **{f"redis{end}": ["10.0.0.5"] for end in ("", ".corp.test")},
    "lacking.test.corp.test": ["10.0.0.5"],
}
TURNING: dict[str, list[list[str]]] = {
    "rebind.test": [[BROKEN], ["127.0.0.1"]],
    "turn.test": [[PUBLIC], ["127.0.0.1"]],
    "flip.test": [[PUBLIC], ["169.254.169.254"]],
}
"""What is said to the first question for addresses, and to all that come later."""
FAILING = {"servfail.test": 2, "refused.test": 5}
SILENT = frozenset({"slow.test"})


class NameServer:
    """Answers on 127.0.0.1:53 and remembers what it was asked."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 53))
        self._lock = threading.Lock()
        self._asked: list[tuple[str, int]] = []
        self._turned: dict[str, int] = {}
        threading.Thread(target=self._run, daemon=True).start()

    def asked(self) -> list[str]:
        """``name/type`` of each question."""
        with self._lock:
            return [f"{name}/{'A' if kind == A else 'AAAA' if kind == AAAA else kind}" for name, kind in self._asked]

    def forget(self, *, turns: bool) -> None:
        """Forget the questions, and with ``turns`` also how far the turning names have turned."""
        with self._lock:
            self._asked.clear()
            if turns:
                self._turned.clear()

    def _run(self) -> None:
        while True:
            query, peer = self._socket.recvfrom(4096)
            if answer := self._answer(query):
                self._socket.sendto(answer, peer)

    def _answer(self, query: bytes) -> bytes | None:
        labels, at = [], 12
        while size := query[at]:
            labels.append(query[at + 1 : at + 1 + size].decode("latin-1"))
            at += 1 + size
        kind = struct.unpack_from("!H", query, at + 1)[0]
        question, name = query[12 : at + 5], ".".join(labels).lower()
        with self._lock:
            self._asked.append((name, kind))
            found = self._found(name, kind)
        if name in SILENT:
            return None
        code = FAILING.get(name, 0 if found is not None else 3)
        rows = [ip_address(ip) for ip in found or () if (":" in ip) == (kind == AAAA) and kind in (A, AAAA)]
        head = query[:2] + struct.pack("!HHHHH", 0x8180 | code, 1, len(rows), 0, 0)
        return head + question + b"".join(_row(kind, ip.packed) for ip in rows)

    def _found(self, name: str, kind: int) -> list[str] | None:
        if name not in TURNING:
            return NAMES.get(name)
        turn = self._turned.get(name, 0)
        if kind == A:
            self._turned[name] = turn + 1
        return TURNING[name][min(turn, 1)] if kind == A else []


def _row(kind: int, packed: bytes) -> bytes:
    """One record that may not be kept: its time to live is 0."""
    return b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 0, len(packed)) + packed
