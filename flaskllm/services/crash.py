"""Points at which a process may be told to kill itself, so that tests see what it leaves behind (``CRASH_POINTS``).

Nothing happens at them unless the setting names a folder, which a production start refuses. A file in it with a
point's name arms that point: the one process that can take the file away dies there as by ``kill -9``, so that a
point is passed by one death, and the file's absence says that it was reached.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

BEFORE_RESERVE = "before-reserve"
BEFORE_UPSTREAM = "before-upstream"
"""The attempt's row is committed and nothing has been sent."""
AFTER_FIRST_BYTE = "after-first-byte"
AFTER_UPSTREAM = "after-upstream"
"""The answer is whole."""
BEFORE_SETTLE = "before-settle"
AFTER_SETTLE = "after-settle"
"""Committed, and nobody was told."""
BEFORE_COMMIT = "before-commit"
"""All of a group is written, and nothing of it is committed."""
POINTS = (BEFORE_RESERVE, BEFORE_UPSTREAM, AFTER_FIRST_BYTE, AFTER_UPSTREAM, BEFORE_SETTLE, AFTER_SETTLE, BEFORE_COMMIT)

BETWEEN_ROWS = "between-rows"
"""Some items of a submission are committed, and there may be more."""
BEFORE_OPEN = "before-open"
"""All are, and nobody may see them."""
BEFORE_RING = "before-ring"
"""The job is accepted; neither its sender nor a worker knows."""
AFTER_RING = "after-ring"
AFTER_CLAIM = "after-claim"
BEFORE_STORE = "before-store"
"""A result without a settlement of its own: a failure."""
AFTER_STORE = "after-store"
BEFORE_GIVE_BACK = "before-give-back"
AFTER_GIVE_BACK = "after-give-back"
AFTER_REAP = "after-reap"
"""What dead workers held is free, and nobody was told."""
AFTER_CANCEL = "after-cancel"
"""No item is asked any more, and the open ones have no result yet."""
AFTER_CLOSE = "after-close"
"""Some of them have, and nobody was told."""
AFTER_REOPEN = "after-reopen"
"""Some failed items are open again, and no worker knows."""
OF_BATCHES = (
    BETWEEN_ROWS, BEFORE_OPEN, BEFORE_RING, AFTER_RING, AFTER_CLAIM, BEFORE_STORE, AFTER_STORE, BEFORE_GIVE_BACK,
    AFTER_GIVE_BACK, AFTER_REAP, AFTER_CANCEL, AFTER_CLOSE, AFTER_REOPEN,
)  # fmt: skip
BEFORE_CALLBACK_SEND = "before-callback-send"
"""An event is taken up, and nothing of it has gone out."""
AFTER_CALLBACK_SEND = "after-callback-send"
"""Its receiver has it, and that is written nowhere."""
OF_CALLBACKS = (BEFORE_CALLBACK_SEND, AFTER_CALLBACK_SEND)

_folder: Path | None = None


def arm(folder: Path | None) -> None:
    """From now on look into this folder; None: nowhere."""
    global _folder  # noqa: PLW0603  (who dies is the process, whatever applications it holds)
    _folder = folder


def point(name: str) -> None:
    """Die here if this point is armed."""
    if _folder is not None:
        _die_if_armed(_folder / name)


def _die_if_armed(sign: Path) -> None:
    try:
        sign.unlink()
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)
