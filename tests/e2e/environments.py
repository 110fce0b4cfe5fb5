"""Environments that a test's programs need, of Python or of Node, each made once from its lock into ``.sdks/``."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from tests.e2e.servers import ROOT, lacking

HERE = Path(__file__).parent / "sdks"
KEPT = ROOT / ".sdks"


def made_once(environment: str) -> Path:
    """The folder with the environment of this lock; made by whoever is first, and anew when the lock has changed."""
    lock = HERE / environment / ("requirements.txt" if environment.startswith("python") else "package-lock.json")
    made = KEPT / f"{environment}-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"
    KEPT.mkdir(exist_ok=True)
    with (KEPT / f"{environment}.lock").open("w") as alone:
        fcntl.flock(alone, fcntl.LOCK_EX)
        if not (made / "ready").exists():
            shutil.rmtree(made, ignore_errors=True)
            (make_python if environment.startswith("python") else make_node)(made, lock)
            (made / "ready").touch()
    return made


def make_python(made: Path, lock: Path) -> None:
    run(sys.executable, "-m", "venv", str(made))
    run(
        str(made / "bin" / "python"),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--require-hashes",
        "--no-deps",
        "-r",
        str(lock),
    )


def make_node(made: Path, lock: Path) -> None:
    if shutil.which("npm") is None:
        lacking("npm is not installed: the SDKs of Node cannot be tried")
    made.mkdir()
    for file in (lock, lock.with_name("package.json")):
        shutil.copy(file, made / file.name)
    run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(made))


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode != 0:
        lacking(f"{Path(command[0]).name} could not install what the SDK tests need: {done.stderr[-500:]}")
