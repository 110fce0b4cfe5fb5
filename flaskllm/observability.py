"""What is told: one JSON line a record, with the request's id in each and no secret in any.

Lines are made of named fields, never of headers or bodies; the redaction of known shapes of secrets is the second net.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import time
from contextvars import ContextVar
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

import orjson

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""Only the log's formatter reads it; everything else is given the id as an argument."""

MOST_BYTES = 10 * 2**20
KEPT_FILES = 5

_SECRETS = re.compile(
    r"fl_[0-9A-Za-z]{20,}"
    r"|(?<![A-Za-z0-9_-])(?>[A-Za-z0-9_-]*?eyJ)[A-Za-z0-9_-]{8,}+\.[A-Za-z0-9_-]{8,}+\.[A-Za-z0-9_-]+"
    r"|\b(?:sk|pk|rk|xai|gsk)-[A-Za-z0-9_-]{8,}"
    r"|AIza[A-Za-z0-9_-]{20,}"
    r"|(?i:bearer)\s+[A-Za-z0-9._~+/=-]{8,}"
    r"|(?i:api_token|api[-_]?key|password|secret)\"?\s*[=:]\s*\"?[^\s\"&,}]{4,}"
    r"|://[^/\s:@\"]+:[^/\s@\"]+@"
)


def redact(text: str) -> str:
    """The text without anything that has the shape of a secret."""
    return _SECRETS.sub("••••", text)


class JsonLines(logging.Formatter):
    """``{"time", "level", "logger", "event", "request_id", …}`` on one line, control characters escaped by JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, made once for all handlers."""
        found: str | None = getattr(record, "json_line", None)
        if found is None:
            found = record.json_line = self._line(record)
        return found

    def _line(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = getattr(record, "fields", None) or {}
        line: dict[str, Any] = {
            "time": _iso(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        if (known := request_id.get()) and "request_id" not in fields:
            line["request_id"] = known
        line.update(fields)
        if record.exc_info:
            line["error"] = self._where(record)
        return redact(orjson.dumps(line, default=str).decode())

    @staticmethod
    def _where(record: logging.LogRecord) -> str:
        """The exception's type and the places it passed, without its values: a message may quote a prompt."""
        kind, _, trace = record.exc_info or (None, None, None)
        places = []
        while trace is not None:
            code = trace.tb_frame.f_code
            places.append(f"{Path(code.co_filename).name}:{trace.tb_lineno} {code.co_name}")
            trace = trace.tb_next
        return f"{kind.__name__ if kind else 'Exception'} at {' < '.join(reversed(places[-8:]))}"


def _iso(seconds: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds * 1000) % 1000:03d}Z"


class SharedRotatingFile(RotatingFileHandler):
    """A rotated file that several processes write: whoever finds that another has rotated opens the new one."""

    _turning = threading.Lock()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if self._was_rotated():
                self._reopen()
        except OSError:  # the folder has gone: nothing is written until it is back
            self.handleError(record)
        else:
            super().emit(record)

    def _was_rotated(self) -> bool:
        try:
            found = Path(self.baseFilename).stat()
            return self.stream is not None and found.st_ino != _inode(self.stream)
        except OSError:
            return self.stream is not None

    def _reopen(self) -> None:
        before, self.stream = self.stream, None
        if before is not None:
            before.close()
        self.stream = self._open()

    def doRollover(self) -> None:  # noqa: N802  (logging's name)
        with self._turning, _alone(f"{self.baseFilename}.lock"):
            if self._was_rotated() or Path(self.baseFilename).stat().st_size < self.maxBytes // 2:
                self._reopen()
            else:
                super().doRollover()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """A log that cannot be written never fails a request."""


def _inode(stream: Any) -> int:
    import os

    return os.fstat(stream.fileno()).st_ino


class _alone:  # noqa: N801  (reads as a word where it is used)
    """A lock between processes; nothing where the system has none."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        self._file = Path(self._path).open("w")
        try:
            import fcntl

            fcntl.flock(self._file, fcntl.LOCK_EX)
        except ImportError:
            return

    def __exit__(self, *_: object) -> None:
        self._file.close()


class QuietStream(logging.StreamHandler[Any]):
    """Standard error; a closed one fails nobody."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """A log that cannot be written never fails a request."""


def configure_logging(*, level: str, folder: Path | None) -> None:
    """Lines to standard error, and to ``app.log`` and ``error.log`` (warnings and worse) in ``folder``."""
    root = logging.getLogger()
    for handler in [found for found in root.handlers if getattr(found, "is_ours", False)]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(level)
    _add(root, QuietStream(sys.stderr), logging.NOTSET)
    if folder is not None and _can_write(folder):
        for name, floor in (("app.log", logging.NOTSET), ("error.log", logging.WARNING)):
            file = SharedRotatingFile(
                folder / name, maxBytes=MOST_BYTES, backupCount=KEPT_FILES, encoding="utf-8", delay=True
            )
            _add(root, file, floor)
    for noisy in (
        "urllib3",
        "httpx2",
        "httpcore2",
        "openai",
        "anthropic",
        "google",
        "google_genai",
        "alembic",
        "werkzeug",
    ):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _add(root: logging.Logger, handler: logging.Handler, floor: int) -> None:
    handler.setFormatter(JsonLines())
    handler.setLevel(floor)
    handler.is_ours = True  # type: ignore[attr-defined]
    root.addHandler(handler)


def _can_write(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        sys.stderr.write(f"LOG_DIR: {folder} cannot be written ({error.strerror}); there will be no log files\n")
        return False
    return True
