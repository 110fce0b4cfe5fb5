"""The ground: addresses, the system's files about names, and who was called at all."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path

PUBLIC, PUBLIC_V6 = "93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"
OTHER = "93.184.216.35"
"""Where redirects to another public host lead."""
BROKEN = "93.184.216.36"
"""A public place that hangs up on everybody."""
OWN = "23.192.228.80"
"""A public address of this very host, on a device that is not the loopback."""
OPEN = frozenset({PUBLIC, PUBLIC_V6, OTHER, BROKEN})
SIMULATOR_PORT = 9999

HOSTS = "127.0.0.1 localhost\n::1 localhost ip6-localhost\n10.0.0.5 hosted.test\n"
RESOLVER = "nameserver 127.0.0.1\nsearch corp.test\noptions attempts:1 timeout:5\n"
_OUTGOING = 4


def lay(folder: Path, aims: Iterable[str]) -> None:
    """Put the addresses in place; those of ``aims`` stand on the loopback device, as the public stand-ins do.

    On it they are not taken for the host's own, so that it is the table that has to refuse them. All the rest of the
    internet is routed to ourselves: whatever is dialled arrives here.
    """
    aimed = sorted({str(ip_address(ip)) for ip in (*OPEN, *aims)})
    lines = [
        "link set lo up",
        *(f"addr add {ip}/{128 if ':' in ip else 32} dev lo{' nodad' if ':' in ip else ''}" for ip in aimed),
        "link add own0 type veth peer name own1",
        f"addr add {OWN}/32 dev own0",
        "link set own0 up",
        "link set own1 up",
        "route add local 0.0.0.0/0 dev lo",
        "-6 route add local ::/0 dev lo",
    ]
    subprocess.run(  # some addresses can be nobody's, such as ::; the others are looked for below
        ["ip", "-force", "-batch", "-"], input="\n".join(lines), text=True, capture_output=True, check=False
    )
    present = subprocess.run(["ip", "-oneline", "addr"], capture_output=True, text=True, check=True).stdout
    missing = [ip for ip in (*OPEN, OWN, "169.254.169.254", "10.0.0.5", "fd00:ec2::254") if f" {ip}/" not in present]
    if missing:
        raise SystemExit(f"these addresses could not be laid: {missing}")
    _put(folder / "hosts", HOSTS, "/etc/hosts")
    _put(folder / "resolv.conf", RESOLVER, "/etc/resolv.conf")
    _put(folder / "nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n", "/etc/nsswitch.conf")


def _put(file: Path, text: str, over: str) -> None:
    """This mount namespace sees our file in the system's place."""
    file.write_text(text)
    subprocess.run(["mount", "--bind", str(file), os.path.realpath(over)], check=True)


class Watch:
    """Every address that a packet was sent to: connections that were begun, and datagrams but for names."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**24)
        self._lock = threading.Condition()
        self._called: list[tuple[str, int]] = []
        self._marks: set[bytes] = set()
        threading.Thread(target=self._run, daemon=True).start()

    def called(self) -> list[tuple[str, int]]:
        """Address and port of each, once all that was sent until now has been looked at."""
        mark = os.urandom(16)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(mark, ("127.0.0.1", 9))
        with self._lock:
            if not self._lock.wait_for(lambda: mark in self._marks, 10):
                raise RuntimeError("the watch sleeps")
            return list(self._called)

    def forget(self) -> None:
        self.called()
        with self._lock:
            self._called.clear()

    def _run(self) -> None:
        while True:
            frame, where = self._socket.recvfrom(70_000)
            if where[2] != _OUTGOING:
                continue
            with contextlib.suppress(IndexError, struct.error, ValueError):
                self._look(where[1], frame[14:])

    def _look(self, kind: int, packet: bytes) -> None:
        if kind == 0x0800:
            start, protocol, target = (packet[0] & 15) * 4, packet[9], ip_address(packet[16:20])
        elif kind == 0x86DD:
            start, protocol, target = 40, packet[6], ip_address(packet[24:40])
        else:
            return
        source, port = struct.unpack_from("!HH", packet, start)
        if protocol == socket.IPPROTO_TCP and packet[start + 13] & 0x12 == 0x02:  # a SYN without ACK
            self._note(str(target), port)
        elif protocol == socket.IPPROTO_UDP:
            if (str(target), port) == ("127.0.0.1", 9):
                with self._lock:
                    self._marks.add(packet[start + 8 :])
                    self._lock.notify_all()
            elif 53 not in (source, port) or str(target) != "127.0.0.1":
                self._note(str(target), port)

    def _note(self, target: str, port: int) -> None:
        with self._lock:
            self._called.append((target, port))
