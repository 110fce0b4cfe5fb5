"""Starts everything: `python run.py [run|serve|worker|test|check|bench|secrets|seed|env-example|help]`, nothing: run.

Standard library only, because it makes the virtual environment that holds the libraries. Its syntax is kept to what an
old Python can read, so that such a Python is told in one line that it is too old, and not by a traceback.
"""

import base64
import contextlib
import hashlib
import http.client
import json
import os
import secrets
import shlex
import signal
import socket
import string
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
WINDOWS = os.name == "nt"
PYTHON = VENV / ("Scripts/python.exe" if WINDOWS else "bin/python")
FLASK = [str(PYTHON), "-m", "flask", "--app", "wsgi"]
LOCK = "requirements.txt"
DEV_LOCK = "requirements-dev.txt"
READY_WITHIN = 60.0
PROCESSES = 1 + min(3, os.cpu_count() or 1)  # of tests at once; many of them wait more than they work
MOST_TRIED_AGAIN = 5  # tests: more that fail at once are no matter of a busy machine

HELP = """usage: python run.py [command]

  run          start the gateway for one person and print address, token and a curl command (the default)
  serve        start it under gunicorn, as in production
  worker       answer batches, settle what dead processes left, sweep what has expired
  test         the tests; further arguments go to pytest
  check        lint, format, types, import rules, .env.example, migrations
  bench        the benchmarks; further arguments go to them
  secrets      print fresh secrets for .env
  seed         bring the shipped catalogue into the database
  env-example  print .env.example

Each first makes what is missing: .venv, the locked requirements, instance/ with its secrets, database, catalogue."""


class Stop(Exception):
    """One clear line for the person at the terminal, and an exit code."""

    def __init__(self, line: str, code: int = 1) -> None:
        super().__init__(line)
        self.code = code


# --- what is missing is made --------------------------------------------------------------------------------------


def need_python() -> None:
    if sys.version_info < (3, 11):
        raise Stop("Python 3.11 or later is needed, this is %d.%d" % sys.version_info[:2])


def ensure_venv() -> None:
    if PYTHON.exists() and subprocess.call([str(PYTHON), "-c", ""], stderr=subprocess.DEVNULL) == 0:
        return
    try:
        import ensurepip  # noqa: F401  Debian ships Python without it
        import venv
    except ImportError:
        raise Stop(
            "this Python cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv"
        ) from None
    tell("making .venv")
    venv.EnvBuilder(with_pip=True, clear=VENV.exists()).create(str(VENV))


def ensure_requirements(lock: str = LOCK) -> None:
    """Install the lock, unless just this lock was installed before (the development lock contains the other)."""
    wanted = lock_hash(lock)
    if stamp(lock) == wanted or (lock == LOCK and stamp(DEV_LOCK) == lock_hash(DEV_LOCK)):
        return
    tell("installing " + lock + " (once; some minutes on a slow line)")
    pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes"]
    if call([*pip, "-r", lock]) != 0:
        raise Stop("the requirements could not be installed; pip says why above")
    stamp_file(lock).write_text(wanted, encoding="ascii")


def lock_hash(lock: str) -> str:
    return hashlib.sha256((ROOT / lock).read_bytes()).hexdigest()


def stamp_file(lock: str) -> Path:
    return VENV / ("." + lock + ".sha256")


def stamp(lock: str) -> Optional[str]:
    with contextlib.suppress(OSError):
        return stamp_file(lock).read_text(encoding="ascii")
    return None


def read_facts() -> Dict[str, Any]:
    """What the settings say; makes `instance/` and its secrets by the way. Faults have been printed when this stops."""
    done = subprocess.run(
        [str(PYTHON), "-m", "flaskllm.config", "--facts"], cwd=str(ROOT), stdout=subprocess.PIPE, check=False
    )
    if done.returncode != 0:
        raise Stop("", done.returncode)
    return dict(json.loads(done.stdout))


def ensure_database() -> None:
    for arguments in (["db", "upgrade"], ["seed"]):
        done = subprocess.run(
            [*FLASK, *arguments], cwd=str(ROOT), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        if done.returncode != 0:
            sys.stderr.write(done.stdout.decode(errors="replace"))
            raise Stop("`flask --app wsgi " + " ".join(arguments) + "` failed; its words are above", done.returncode)


def prepare(lock: str = LOCK) -> None:
    ensure_venv()
    ensure_requirements(lock)


# --- children end with their parent -------------------------------------------------------------------------------


class Family:
    """Child processes that live and die together, and with this process; those that come back do so when killed."""

    def __init__(self, patience: float) -> None:
        self._children = []  # type: List[subprocess.Popen[bytes]]
        self._returning = {}  # type: Dict[int, List[str]]
        self._patience = patience
        self._stopping_since = None  # type: Optional[float]
        for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), self._stop)

    def start(self, command: Sequence[str], *, comes_back: bool = False) -> None:
        """``comes_back``: it is started again where a signal killed it, as a batch item may kill its worker."""
        child = self._spawn(command)
        self._children.append(child)
        if comes_back:
            self._returning[child.pid] = list(command)

    def _spawn(self, command: Sequence[str]) -> "subprocess.Popen[bytes]":
        options = {} if WINDOWS else {"start_new_session": True, "preexec_fn": die_with_parent}
        return subprocess.Popen(list(command), cwd=str(ROOT), **options)  # type: ignore[call-overload]

    def alive(self) -> bool:
        self._bring_back()
        return all(child.poll() is None for child in self._children)

    def _bring_back(self) -> None:
        for place, child in enumerate(self._children):
            if self._stopping_since is None and child.poll() is not None and child.returncode < 0:
                command = self._returning.pop(child.pid, None)
                if command is not None:
                    tell("a worker was killed (signal %d); another takes its place" % -child.returncode)
                    self._children[place] = self._spawn(command)
                    self._returning[self._children[place].pid] = command

    def wait(self) -> int:
        """Until the first ends; then the others are ended too. Answers with the exit code of that first one."""
        while self.alive():
            time.sleep(0.1)
            self._lose_patience()
        code = next(child.returncode for child in self._children if child.returncode is not None)
        self._stop()
        for child in self._children:
            while child.poll() is None:
                time.sleep(0.05)
                self._lose_patience()
        self._sweep()
        return code if code >= 0 else 128 - code

    def _stop(self, *_: Any) -> None:
        """Pass the wish to end on, to the chiefs only: they know how to end their own children in good order."""
        if self._stopping_since is None:
            self._stopping_since = time.monotonic()
        for child in self._children:
            if child.poll() is None:
                child.terminate()

    def _lose_patience(self) -> None:
        if self._stopping_since is not None and time.monotonic() - self._stopping_since > self._patience:
            self._sweep()

    def _sweep(self) -> None:
        for child in self._children:
            if WINDOWS:
                child.kill()
            else:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(child.pid, signal.SIGKILL)


def die_with_parent() -> None:
    """On Linux the kernel itself ends a child whose parent was killed outright."""
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


# --- commands -----------------------------------------------------------------------------------------------------


def start(_: List[str]) -> int:
    prepare()
    facts = read_facts()
    need_free_port(facts["host"], facts["port"])
    ensure_database()
    family = Family(facts["graceful_timeout"] + 10)
    family.start(web_command(facts))
    start_workers(family, min(1, facts["workers"]))
    token, code = printed_by("dev-token"), printed_by("setup-code")
    if is_ready(facts, family):
        print(greeting(facts, token, code), flush=True)
    return family.wait()


def web_command(facts: Dict[str, Any]) -> List[str]:
    """One process; gunicorn where it runs. DEBUG reloads, and never opens the interactive debugger."""
    if not WINDOWS:
        return gunicorn() + ["--workers", "1"] + (["--reload"] if facts["debug"] else [])
    reload = "--reload" if facts["debug"] else "--no-reload"
    return [*FLASK, "run", "--no-debugger", reload, "--host", facts["host"], "--port", str(facts["port"])]


def gunicorn() -> List[str]:
    return [str(PYTHON), "-m", "gunicorn", "--config", "gunicorn.conf.py", "--no-control-socket", "wsgi:app"]


def need_free_port(host: str, port: int) -> None:
    family, kind, protocol, _, address = lookup(host, port)
    with contextlib.closing(socket.socket(family, kind, protocol)) as probe:
        if not WINDOWS:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            reason = "%s:%d cannot be listened on (%s)" % (host, port, error.strerror)
            raise Stop(reason + "; set PORT or HOST, or end what is there") from None


def lookup(host: str, port: int) -> Tuple[Any, ...]:
    try:
        return socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
    except OSError:
        raise Stop("HOST: %s is no address of this machine" % host) from None


def printed_by(command: str) -> Optional[str]:
    """The development token (nothing in production), or the set-up code (nothing where there is an administrator)."""
    done = subprocess.run(
        [*FLASK, command], cwd=str(ROOT), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False
    )
    lines = done.stdout.decode().split() if done.returncode == 0 else []
    return lines[-1] if lines else None


def is_ready(facts: Dict[str, Any], family: Family) -> bool:
    deadline = time.monotonic() + READY_WITHIN
    while family.alive() and time.monotonic() < deadline:
        connection = http.client.HTTPConnection(reachable(facts["host"]).strip("[]"), facts["port"], timeout=5)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/health/live")
            return connection.getresponse().status < 500
        time.sleep(0.1)
    return False


def reachable(host: str) -> str:
    bare = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host.strip("[]"), host.strip("[]"))  # noqa: S104  compared, not bound
    return "[" + bare + "]" if ":" in bare else bare


def administration(facts: Dict[str, Any], code: Optional[str]) -> str:
    line = "Administrators' page: http://%s:%d/admin" % (reachable(facts["host"]), facts["port"])
    return line if code is None else line + " (the first one is made with the set-up code " + code + ")"


def greeting(facts: Dict[str, Any], token: Optional[str], code: Optional[str] = None) -> str:
    address = "http://%s:%d" % (reachable(facts["host"]), facts["port"])
    lines = ["", "FlaskLLM listens at %s (%s, %s mode)" % (address, facts["environment"], facts["mode"])]
    lines.append(administration(facts, code))
    if token is None:
        return "\n".join([*lines, "A token: .venv/bin/flask --app wsgi tokens create NAME", ""])
    body = json.dumps({"messages": [{"role": "user", "content": "Hello"}]})
    headers = ["Authorization: Bearer " + token, "Content-Type: application/json"]
    curl = ["curl", address + "/v1/chat/completions", "-H", headers[0], "-H", headers[1], "-d", body]
    return "\n".join([*lines, "Token: " + token, "Try it:", "  " + quoted(curl), ""])


def quoted(command: List[str]) -> str:
    return subprocess.list2cmdline(command) if WINDOWS else " ".join(shlex.quote(word) for word in command)


def serve(_: List[str]) -> int:
    if WINDOWS:
        raise Stop("gunicorn does not run on Windows; `python run.py run` does")
    prepare()
    facts = read_facts()
    need_free_port(facts["host"], facts["port"])
    ensure_database()
    family = Family(facts["graceful_timeout"] + 10)
    family.start(gunicorn())
    start_workers(family, facts["workers"])
    print(administration(facts, printed_by("setup-code")), flush=True)
    return family.wait()


def start_workers(family: Family, count: int) -> None:
    for _ in range(count):
        family.start([*FLASK, "worker"], comes_back=True)


def worker(arguments: List[str]) -> int:
    prepare()
    facts = read_facts()
    ensure_database()
    family = Family(facts["graceful_timeout"] + 10)
    family.start([*FLASK, "worker", *arguments], comes_back=True)
    return family.wait()


def seed(_: List[str]) -> int:
    prepare()
    read_facts()
    ensure_database()
    return 0


def test(arguments: List[str]) -> int:
    """All tests: most of them in processes side by side, then those marked `alone`. What somebody names runs in one."""
    prepare(DEV_LOCK)
    pytest = [str(PYTHON), "-m", "pytest"]
    if arguments:
        return call([*pytest, *arguments])
    side_by_side = ["-n", str(PROCESSES), "--dist", "loadfile", "--no-loadscope-reorder"]
    parts = [("side by side", ["-m", "not alone", *side_by_side]), ("alone", ["-m", "alone"])]
    failed = [name for name, options in parts if not tests_pass([*pytest, "--cache-clear", *options], pytest)]
    print("failed: the tests " + " and those ".join(failed) if failed else "all tests passed")
    return 1 if failed else 0


def tests_pass(command: List[str], pytest: List[str]) -> bool:
    """A few that fail are run once more, by themselves: what measured the machine's load passes then, a fault does not.

    Their names are printed in either case, so that a test which needs this often is seen, and mended.
    """
    if call(command) == 0:
        return True
    failed = failed_tests()
    if not 0 < len(failed) <= MOST_TRIED_AGAIN:
        return False
    tell("tried once more, by themselves: " + ", ".join(failed))
    return call([*pytest, *failed]) == 0


def failed_tests() -> List[str]:
    """What pytest's own notes of its last run say."""
    with contextlib.suppress(OSError):
        return sorted(json.loads((ROOT / ".pytest_cache/v/cache/lastfailed").read_text(encoding="utf-8")))
    return []


def bench(arguments: List[str]) -> int:
    suite = ROOT / "benchmarks" / "run.py"
    if not suite.exists():
        raise Stop("there are no benchmarks in this checkout")
    prepare(DEV_LOCK)
    return call([str(PYTHON), str(suite), *arguments])


def check(_: List[str]) -> int:
    """All of it, always: whoever mends things wants to see every fault at once."""
    prepare(DEV_LOCK)
    failed = [name for name, command in checks() if not passes(name, command)]
    with tempfile.TemporaryDirectory() as folder:
        apart = dict(os.environ, ENVIRONMENT="testing", INSTANCE_PATH=folder, DATABASE_URL="sqlite:///check.db")
        # Two processes: Flask-Migrate leaves a filter behind that breaks a second command in the same one.
        for name, arguments in (("migrations run", ["upgrade"]), ("migrations match the models", ["check"])):
            failed += [] if passes(name, [*FLASK, "db", *arguments], apart) else [name]
    failed += [] if passes_example() else [".env.example"]
    print("failed: " + ", ".join(failed) if failed else "all checks passed")
    return 1 if failed else 0


def checks() -> List[Tuple[str, List[str]]]:
    python = [str(PYTHON), "-m"]
    return [
        ("lint", [*python, "ruff", "check", "--quiet", "."]),
        ("format", [*python, "ruff", "format", "--check", "--quiet", "."]),
        ("types", [*python, "mypy"]),
        ("import rules", [str(PYTHON.parent / "lint-imports")]),
    ]


def passes(name: str, command: List[str], environment: Optional[Dict[str, str]] = None) -> bool:
    done = subprocess.run(
        command, cwd=str(ROOT), env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    print("%-30s %s" % (name, "ok" if done.returncode == 0 else "FAILED"), flush=True)
    if done.returncode != 0:
        print(done.stdout.decode(errors="replace"), flush=True)
    return done.returncode == 0


def passes_example() -> bool:
    """`.env.example` is what config.py prints, and nothing else."""
    printed = subprocess.run(
        [str(PYTHON), "-m", "flaskllm.config", "--example"], cwd=str(ROOT), stdout=subprocess.PIPE, check=False
    ).stdout.decode("utf-8")
    same = printed == (ROOT / ".env.example").read_text(encoding="utf-8")
    print("%-30s %s" % (".env.example", "ok" if same else "FAILED: run `python run.py env-example > .env.example`"))
    return same


def env_example(_: List[str]) -> int:
    prepare()
    return call([str(PYTHON), "-m", "flaskllm.config", "--example"])


def fresh_secrets(_: List[str]) -> int:
    """For .env: each line a fresh value, good enough for production."""
    for name in ("SECRET_KEY", "JWT_SECRET_KEY"):
        print(name + "=" + secrets.token_urlsafe(48))
    print("LLM_GATEWAY_ENCRYPTION_KEY=" + base64.urlsafe_b64encode(secrets.token_bytes(32)).decode())
    print("API_TOKEN=" + api_token())
    return 0


def api_token() -> str:
    """Of the form that scanners and our own logs know: fl_, 43 base-62 digits, 6 of the CRC32 of what is before."""
    number = int.from_bytes(secrets.token_bytes(32), "big")
    body = "fl_" + base62(number, 43)
    return body + base62(zlib.crc32(body.encode()), 6)


def base62(number: int, width: int) -> str:
    alphabet = string.digits + string.ascii_uppercase + string.ascii_lowercase
    digits = ""
    for _ in range(width):
        number, digit = divmod(number, 62)
        digits = alphabet[digit] + digits
    return digits


def usage(_: List[str]) -> int:
    print(HELP)
    return 0


COMMANDS = {
    "run": start,
    "serve": serve,
    "worker": worker,
    "test": test,
    "check": check,
    "bench": bench,
    "secrets": fresh_secrets,
    "seed": seed,
    "env-example": env_example,
    "help": usage,
}


def call(command: List[str]) -> int:
    return subprocess.call(command, cwd=str(ROOT))


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(arguments: List[str]) -> int:
    name = arguments[0] if arguments else "run"
    command = usage if name in ("-h", "--help") else COMMANDS.get(name)
    try:
        if command is None:
            raise Stop(HELP, 2)
        need_python()
        return command(arguments[1:])
    except Stop as stop:
        if str(stop):
            tell(str(stop))
        return stop.code
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
