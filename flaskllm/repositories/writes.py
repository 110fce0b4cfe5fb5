"""What one group of the committer writes: the ledger's operations, and what belongs to the same transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flaskllm.repositories import batches, ledger
from flaskllm.repositories.committer import Connection


def write(connection: Connection, operations: Sequence[Any]) -> None:
    """The ledger first, in every process: who holds a budget may wait for a job, and nobody waits the other way."""
    of_batches = [one for one in operations if isinstance(one, batches.Operation)]
    of_the_ledger = [one for one in operations if not isinstance(one, batches.Operation)]
    ledger.apply(connection, of_the_ledger)
    beside = [one.beside for one in of_the_ledger if isinstance(one, ledger.Settle) and one.beside is not None]
    if beside or of_batches:
        batches.write_all(connection, [*beside, *of_batches])
