"""The launcher says in one line what is wrong, and ends what it began."""

import contextlib
import functools
import os
import re
import runpy
import shutil
import signal
import socket
import string
import subprocess
import sys
import time
import zlib
from pathlib import Path
from types import SimpleNamespace

import pytest

import run

ROOT = Path(__file__).parent.parent
RUN = str(ROOT / "run.py")


def launch(*arguments, python=sys.executable, **options):
    return subprocess.run([python, RUN, *arguments], capture_output=True, text=True, check=False, timeout=60, **options)


def lines(text):
    return text.strip().splitlines()


def script(folder, source):
    path = folder / "scene.py"
    path.write_text(f"import sys; sys.path.insert(0, {str(ROOT)!r}); import run\n{source}", encoding="utf-8")
    return [sys.executable, str(path)]


def old_pythons():
    """Older interpreters that happen to be on this machine."""
    candidates = [shutil.which(f"python3.{minor}") for minor in range(6, 11)]
    candidates += [str(path) for path in Path.home().glob(".pyenv/versions/3.[6-9].*/bin/python")]
    return [path for path in candidates if path and "/shims/" not in path]


def test_an_old_python_is_told_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "version_info", (3, 9, 2))
    assert run.main(["run"]) == 1
    assert capsys.readouterr().err == "Python 3.11 or later is needed, this is 3.9\n"


@pytest.mark.skipif(not old_pythons(), reason="no Python older than 3.11 on this machine")
def test_an_old_python_can_read_the_launcher():
    for python in old_pythons():
        said = launch("run", python=python)
        assert (said.returncode, len(lines(said.stderr))) == (1, 1)
        assert said.stderr.startswith("Python 3.11 or later is needed, this is 3.")


def test_a_python_without_venv_names_the_package(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(run, "PYTHON", tmp_path / "bin" / "python")
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    assert run.main(["run"]) == 1
    said = lines(capsys.readouterr().err)
    assert len(said) == 1
    assert "apt install python3-venv" in said[0]


def test_a_taken_port_is_one_clear_line():
    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(run.Stop, match=rf"^127\.0\.0\.1:{port} cannot be listened on .*set PORT or HOST"):
            run.need_free_port("127.0.0.1", port)


def test_a_port_just_let_go_is_free():
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
        with contextlib.closing(socket.create_connection(("127.0.0.1", port))) as caller:
            server.accept()[0].close()
            assert caller.recv(1) == b""
    run.need_free_port("127.0.0.1", port)


def test_a_host_that_is_none_is_one_clear_line():
    with pytest.raises(run.Stop, match=r"^HOST: no\.such\.host\.invalid is no address"):
        run.need_free_port("no.such.host.invalid", 5000)


def test_secrets_are_four_and_never_the_same():
    first, second = launch("secrets"), launch("secrets")
    names = [line.partition("=")[0] for line in lines(first.stdout)]
    assert names == ["SECRET_KEY", "JWT_SECRET_KEY", "LLM_GATEWAY_ENCRYPTION_KEY", "API_TOKEN"]
    assert not set(lines(first.stdout)) & set(lines(second.stdout))


def test_the_fresh_token_has_the_gateways_own_form():
    token = run.api_token()
    alphabet = string.digits + string.ascii_uppercase + string.ascii_lowercase
    checksum = functools.reduce(lambda number, digit: number * 62 + alphabet.index(digit), token[46:], 0)
    assert re.fullmatch(r"fl_[0-9A-Za-z]{49}", token)
    assert checksum == zlib.crc32(token[:46].encode())


def test_an_unknown_command_shows_the_known_ones():
    said = launch("fly")
    assert said.returncode == 2
    assert said.stderr.startswith("usage: python run.py")


def test_help_names_every_command():
    said = launch("help")
    assert said.returncode == 0
    assert all(f"  {name} " in said.stdout for name in run.COMMANDS if name != "help")


def test_the_makefile_goes_through_the_launcher():
    make = shutil.which("make")
    if make is None:
        pytest.skip("no make on this machine")
    own = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # `make test` runs us
    plan = subprocess.run(
        [make, "-n", "run", "test", "serve"], cwd=ROOT, env=own, capture_output=True, text=True, check=True
    ).stdout
    assert lines(plan) == ["python3 run.py run", "python3 run.py test", "python3 run.py serve"]


def test_requirements_are_installed_only_when_the_lock_changed(monkeypatch, tmp_path):
    installed = []
    monkeypatch.setattr(run, "VENV", tmp_path)
    monkeypatch.setattr(run, "call", lambda command: installed.append(command[-1]) or 0)
    run.ensure_requirements()
    run.ensure_requirements()
    assert installed == ["requirements.txt"]
    run.stamp_file("requirements.txt").write_text("of yesterday")
    run.ensure_requirements()
    assert installed == ["requirements.txt"] * 2


def test_the_development_lock_covers_the_other(monkeypatch, tmp_path):
    installed = []
    monkeypatch.setattr(run, "VENV", tmp_path)
    monkeypatch.setattr(run, "call", lambda command: installed.append(command[-1]) or 0)
    run.ensure_requirements("requirements-dev.txt")
    run.ensure_requirements()
    assert installed == ["requirements-dev.txt"]


def test_a_failed_installation_is_tried_again(monkeypatch, tmp_path):
    monkeypatch.setattr(run, "VENV", tmp_path)
    monkeypatch.setattr(run, "call", lambda _: 1)
    for _ in range(2):
        with pytest.raises(run.Stop, match="could not be installed"):
            run.ensure_requirements()


def test_the_development_lock_holds_the_same_versions():
    def versions(lock):
        return {line.split(" \\")[0] for line in (ROOT / lock).read_text().splitlines() if "==" in line}

    assert versions("requirements.txt") <= versions("requirements-dev.txt")
    assert versions("requirements-pythonanywhere.txt") < versions("requirements.txt")


@pytest.mark.parametrize("lock", ["requirements.txt", "requirements-dev.txt", "requirements-pythonanywhere.txt"])
def test_a_lock_pins_every_package_by_hash_and_names_no_index(lock):
    text = (ROOT / lock).read_text()
    pinned = text.replace("\\\n", "").splitlines()
    assert all("==" in line and "--hash=sha256:" in line for line in pinned)
    assert "://" not in text
    assert "--index" not in text


def test_settings_that_stop_the_start_are_told_and_nothing_else(tmp_path):
    source = "run.PYTHON = sys.executable\nrun.prepare = lambda: None\nsys.exit(run.main(['run']))"
    environ = {**os.environ, "JWT_SECRET_KEY": "secret"}
    said = subprocess.run(script(tmp_path, source), capture_output=True, text=True, env=environ, check=False)
    assert said.returncode == 2
    assert [line.partition(":")[0] for line in lines(said.stderr)] == ["JWT_SECRET_KEY"]


@pytest.mark.parametrize(
    "host,shown",
    [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("gate.example", "gate.example")],
)
def test_the_address_printed_can_be_called(host, shown):
    assert run.reachable(host) == shown


def test_the_greeting_can_be_pasted():
    facts = {"host": "0.0.0.0", "port": 5000, "environment": "development", "mode": "sql"}
    words = run.greeting(facts, "fl_x").splitlines()
    assert words[1] == "FlaskLLM listens at http://127.0.0.1:5000 (development, sql mode)"
    assert "curl http://127.0.0.1:5000/v1/chat/completions -H 'Authorization: Bearer fl_x'" in words[-1]


def test_the_greeting_shows_no_token_where_there_is_none():
    facts = {"host": "127.0.0.1", "port": 5000, "environment": "production", "mode": "sql"}
    assert "tokens create" in run.greeting(facts, None)


def test_the_greeting_leads_to_the_administrators_page_and_says_the_code_while_it_is_needed():
    facts = {"host": "0.0.0.0", "port": 5000, "environment": "development", "mode": "sql"}
    page = "Administrators' page: http://127.0.0.1:5000/admin"
    assert page in run.greeting(facts, "fl_x").splitlines()
    assert page + " (the first one is made with the set-up code ABCD-EFGH)" in run.greeting(facts, "fl_x", "ABCD-EFGH")


PYTEST = """#!/bin/sh
[ "$1" = -c ] && exit 0
echo "$@" >> asked
case "$*" in *"$FAILS") exit 1;; esac
"""


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """What pytest would be asked, in an environment that is whole; it fails where its last words are ``FAILS``."""
    python = tmp_path / "python"
    python.write_text(PYTEST)
    python.chmod(0o755)
    for name, value in (("ROOT", tmp_path), ("VENV", tmp_path), ("PYTHON", python)):
        monkeypatch.setattr(run, name, value)
    shutil.copy(ROOT / run.DEV_LOCK, tmp_path)
    run.stamp_file(run.DEV_LOCK).write_text(run.lock_hash(run.DEV_LOCK))
    return lambda: lines((tmp_path / "asked").read_text())


@pytest.mark.skipif(os.name == "nt", reason="a shell script stands for Python")
@pytest.mark.parametrize(
    "fails, code, told",
    [
        ("nothing", 0, "all tests passed"),
        ("-m alone", 1, "failed: the tests alone"),
        ("--no-loadscope-reorder", 1, "failed: the tests side by side"),
    ],
)
def test_all_tests_are_run_in_two_parts_and_either_can_fail(monkeypatch, capsys, asked, fails, code, told):
    monkeypatch.setenv("FAILS", fails)
    assert run.main(["test"]) == code
    assert lines(capsys.readouterr().out) == [told]
    first, second = asked()
    assert first.startswith(f"-m pytest --cache-clear -m not alone -n {run.PROCESSES} ")
    assert second == "-m pytest --cache-clear -m alone"


@pytest.mark.skipif(os.name == "nt", reason="a shell script stands for Python")
def test_the_tests_that_somebody_names_are_run_as_named(monkeypatch, asked):
    monkeypatch.setenv("FAILS", "-x")
    assert run.main(["test", "-k", "name", "-x"]) == 1
    assert asked() == ["-m pytest -k name -x"]


CHILD = "import os, time; os.write(1, b'%d' % os.getpid() + bytes([10])); time.sleep(60)"


def alive(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z" if sys.platform == "linux" else True
    return False


def gone(pid, within=5.0):
    deadline = time.monotonic() + within
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not alive(pid)


@pytest.mark.skipif(os.name == "nt", reason="no such signals on Windows")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_children_end_with_the_launcher(name, tmp_path):
    source = (
        f"family = run.Family(5)\nfor _ in range(2): family.start([sys.executable, '-c', {CHILD!r}])\nfamily.wait()"
    )
    with subprocess.Popen(script(tmp_path, source), stdout=subprocess.PIPE, text=True) as launcher:
        children = [int(launcher.stdout.readline()) for _ in range(2)]
        launcher.send_signal(getattr(signal, name))
        launcher.wait(10)
    assert all(gone(child) for child in children)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is Linux's")
def test_children_end_when_the_launcher_is_killed_outright(tmp_path):
    source = f"family = run.Family(5)\nfamily.start([sys.executable, '-c', {CHILD!r}])\nfamily.wait()"
    with subprocess.Popen(script(tmp_path, source), stdout=subprocess.PIPE, text=True) as launcher:
        child = int(launcher.stdout.readline())
        launcher.kill()
    assert gone(child)


@pytest.mark.skipif(os.name == "nt", reason="no process groups on Windows")
def test_a_child_that_will_not_end_is_killed_with_its_own_children(tmp_path):
    stubborn = "import signal, subprocess, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    stubborn += f"subprocess.run([sys.executable, '-c', {CHILD!r}])"
    source = f"family = run.Family(0.3)\nfamily.start([sys.executable, '-c', {stubborn!r}])\nfamily.wait()"
    with subprocess.Popen(script(tmp_path, source), stdout=subprocess.PIPE, text=True) as launcher:
        grandchild = int(launcher.stdout.readline())
        launcher.terminate()
        launcher.wait(10)
    assert gone(grandchild)


@pytest.mark.parametrize("code", [0, 3])
def test_the_exit_code_is_passed_on_and_ends_the_others(code, tmp_path):
    source = f"family = run.Family(5)\nfamily.start([sys.executable, '-c', {CHILD!r}])\n"
    source += f"family.start([sys.executable, '-c', 'raise SystemExit({code})'])\nsys.exit(family.wait())"
    assert subprocess.run(script(tmp_path, source), stdout=subprocess.PIPE, timeout=20, check=False).returncode == code


# --- wsgi.py and gunicorn.conf.py, which the launcher starts


STUB_APP = """
import flask
def create_app(settings):
    app = flask.Flask("stub")
    app.config["FILE"] = settings.database_file
    return app
"""
STUB_WIRING = """
import time
def prepare_database(app):
    print("prepared", flush=True)
    time.sleep(0.2)
    app.config["FILE"].write_text("current")
def database_is_current(app):
    return app.config["FILE"].read_text() == "current"
"""


@pytest.fixture
def installation(tmp_path):
    """wsgi.py and config.py as they are, over an application and a database that are only sketched."""
    package = tmp_path / "flaskllm"
    package.mkdir()
    shutil.copy(ROOT / "wsgi.py", tmp_path)
    shutil.copy(ROOT / "flaskllm" / "config.py", package)
    for name, source in (("__init__", ""), ("app", STUB_APP), ("wiring", STUB_WIRING)):
        (package / f"{name}.py").write_text(source, encoding="utf-8")
    return tmp_path


def load_wsgi(installation, *, then="", **environ):
    """``then``: what the server's process does afterwards, in Python."""
    source = f"import runpy; print(runpy.run_path({str(installation / 'wsgi.py')!r})['application'].name){then}"
    clean = {name: os.environ[name] for name in ("PATH", "HOME", "SYSTEMROOT") if name in os.environ}
    return subprocess.Popen(
        [sys.executable, "-c", source],
        cwd="/",
        env={**clean, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_missing_sqlite_file_is_made_once_by_servers_that_start_at_once(installation):
    servers = [load_wsgi(installation) for _ in range(3)]
    said = [server.communicate(timeout=30) for server in servers]
    assert [server.returncode for server in servers] == [0, 0, 0], said
    assert "".join(out for out, _ in said).count("prepared") == 1


def test_a_database_that_is_behind_stops_the_server_and_names_the_command(installation):
    (installation / "instance").mkdir()
    (installation / "instance" / "app.db").write_text("old")
    server = load_wsgi(installation)
    assert "flask --app wsgi db upgrade" in server.communicate(timeout=30)[1]
    assert server.returncode == 4


def test_wrong_settings_stop_the_server_by_name(installation):
    server = load_wsgi(installation, ENVIRONMENT="production", HTTPX_CLIENT_VERIFY="false")
    told = server.communicate(timeout=30)[1]
    assert server.returncode == 4
    assert all(name in told for name in ("HTTPX_CLIENT_VERIFY", "SECRET_KEY", "JWT_SECRET_KEY"))
    assert "Traceback" not in told


def test_warnings_are_told_at_each_start(installation):
    for _ in range(2):
        assert (
            "warning: HTTPX_CLIENT_VERIFY"
            in load_wsgi(installation, HTTPX_CLIENT_VERIFY="no").communicate(timeout=30)[1]
        )


def test_garbage_is_looked_for_after_the_start_and_not_in_what_the_start_made(installation):
    server = load_wsgi(installation, then="; import gc; print(gc.isenabled(), gc.get_freeze_count() > 10_000)")
    assert server.communicate(timeout=30)[0].endswith("True True\n")


@pytest.fixture
def gunicorn_settings(monkeypatch, tmp_path):
    monkeypatch.setenv("INSTANCE_PATH", str(tmp_path))
    return runpy.run_path(str(ROOT / "gunicorn.conf.py"))


def test_gunicorn_lets_client_id_in_and_no_query_out(gunicorn_settings):
    assert (gunicorn_settings["forwarder_headers"], gunicorn_settings["header_map"]) == ("CLIENT_ID", "drop")
    assert not re.search(r"%\((r|q|f|[^)]*\}[ie])\)", gunicorn_settings["access_log_format"])


def test_gunicorn_waits_longer_than_a_request_may_take(gunicorn_settings):
    settings = gunicorn_settings["settings"]
    assert settings.request_timeout + 1 < gunicorn_settings["graceful_timeout"] < 60


def test_gunicorn_tells_the_application_of_its_worker_and_of_its_end(gunicorn_settings):
    told = []
    shutdown = SimpleNamespace(watch=told.append, stop=lambda: told.append("stop"))
    worker = SimpleNamespace(wsgi=SimpleNamespace(extensions={"flaskllm_shutdown": shutdown}))
    gunicorn_settings["post_worker_init"](worker)
    gunicorn_settings["worker_exit"](None, worker)
    assert told == [worker, "stop"]


def test_gunicorn_bears_a_worker_that_never_loaded(gunicorn_settings):
    gunicorn_settings["worker_exit"](None, SimpleNamespace(wsgi=None))
