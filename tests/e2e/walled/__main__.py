"""Lays the ground, opens the places, starts the gateway; then does what it is told over ``FOLDER/control.sock``."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.e2e.walled.ground import SIMULATOR_PORT, Watch, lay
from tests.e2e.walled.names import NameServer
from tests.e2e.walled.outside import Outside
from tests.upstream import Upstream


class World:
    """All of it, and what a test may tell it."""

    def __init__(self, folder: Path) -> None:
        self.outside = Outside(folder)
        self.names = NameServer()
        self.providers = Upstream(SIMULATOR_PORT).start()
        self.watch = Watch()

    def script(self, words: str = "ok", *, turns: bool = True) -> dict[str, Any]:
        """A new case: what the public place says; nothing is remembered. Without ``turns`` names go on turning."""
        self.outside.script(words)
        self.names.forget(turns=turns)
        self.providers.reset()
        self.watch.forget()
        return {}

    def report(self) -> dict[str, Any]:
        """What was called, received and asked since."""
        return {
            "called": self.watch.called(),
            "requests": self.outside.requests(),
            "asked": self.names.asked(),
            "provider_keys": [seen.headers.get("authorization", "") for seen in self.providers.requests],
        }

    def call(self, ip: str, port: int) -> dict[str, Any]:
        """What the gateway must not do, to see that it would be noticed."""
        with contextlib.suppress(OSError), socket.create_connection((ip, port), 2) as sock:
            sock.sendall(b"GET /ok HTTP/1.1\r\nHost: canary\r\n\r\n")
            return {"told": sock.recv(65536).decode("latin-1")}
        return {"told": ""}

    def serve(self, control: socket.socket) -> None:
        while True:
            sock, _ = control.accept()
            with sock, sock.makefile("rb") as file:
                asked = json.loads(file.readline())
                answer = getattr(self, asked.pop("do"))(**asked)
                sock.sendall(json.dumps(answer).encode() + b"\n")


def main() -> None:
    folder, command = Path(sys.argv[1]), sys.argv[3:]
    lay(folder, json.loads((folder / "aims.json").read_text()))
    world = World(folder)
    control = socket.socket(socket.AF_UNIX)
    control.bind(str(folder / "control.sock"))
    control.listen(8)
    gateway = subprocess.Popen(command, env={**os.environ, "SSL_CERT_FILE": world.outside.ca_file})

    def end(*_: object) -> None:
        gateway.terminate()
        os._exit(gateway.wait())

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    world.serve(control)


if __name__ == "__main__":
    main()
