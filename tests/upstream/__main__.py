"""`python -m tests.upstream [--port N] [--tls]`: one JSON line with the url, then answers until it is stopped."""

from __future__ import annotations

import argparse
import json
import signal
import threading

from .server import Upstream


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.upstream")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--tls", action="store_true")
    options = parser.parse_args()
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    with Upstream(options.port, tls=options.tls) as up:
        print(json.dumps({"url": up.url, "ca_file": str(up.ca_file) if up.ca_file else None}), flush=True)
        stopped.wait()


if __name__ == "__main__":
    main()
