"""gunicorn as `run.py run` and `run.py serve` start it; every number comes from the settings (flaskllm/config.py)."""

import hashlib
import os
import resource
import shutil
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))

from flaskllm.config import Settings, SettingsError  # noqa: E402

try:
    settings = Settings.load(root=ROOT)
except SettingsError as error:
    sys.stderr.write(error.told() + "\n")
    raise SystemExit(1) from None

host = f"[{settings.host}]" if ":" in settings.host and "[" not in settings.host else settings.host
bind = f"{host}:{settings.port}"
backlog = 2048
chdir = str(ROOT)
wsgi_app = "wsgi:app"

# Threads are made on demand and wait for models; the deadline of a request is ours, `timeout` is only a heartbeat.
worker_class = "gthread"
workers = settings.web_processes
threads = settings.web_threads
timeout = 60
keepalive = 75
preload_app = False  # connections and threads must be made after the fork

# Longer than a request may take, shorter than a supervisor waits before it kills (60 s): see hardening in docs/.
graceful_timeout = settings.graceful_timeout

# S2's `client_id` has an underscore in its name: let just that one in, from proxies that are trusted by address.
forwarder_headers = "CLIENT_ID"
header_map = "drop"

# The most gunicorn can be given, so that an address too long for us is refused in our words.
limit_request_line = 8190

# One default socket would be shared by every gunicorn of a user.
control_socket_disable = True

# The application writes its own line for each request. Whoever switches gunicorn's on gets one without the query,
# because `?api_token=` stands there.
accesslog = None
access_log_format = '%(h)s "%(m)s %(U)s %(H)s" %(s)s %(b)s %(M)s'
errorlog = "-"
loglevel = settings.log_level.lower()


def _metrics_folder(on_disk: Path) -> Path:
    """In memory where there is some for files: who writes into a mapped file ends by SIGBUS once the disk is full."""
    in_memory, owner = Path("/dev/shm"), os.getuid()  # noqa: S108  (only what is ours is used)
    name = f"flaskllm-{owner}-{hashlib.sha256(os.fsencode(on_disk)).hexdigest()[:16]}"
    folder = in_memory / name
    ours = folder.lstat().st_uid == owner if os.path.lexists(folder) else os.access(in_memory, os.W_OK)
    return folder if ours else on_disk


# The processes count together for /metrics: prometheus-client looks for this folder's name when it is imported.
metrics_folder = _metrics_folder(settings.instance_path / "metrics" / str(settings.port))
os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics_folder)


def on_starting(_server: Any) -> None:
    """Counts begin anew with the server; a reload of its workers keeps them. A crash writes no memory to the disk."""
    if settings.is_production:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    file = settings.database_file
    if file is not None and not os.access(file.parent, os.W_OK):
        raise SystemExit(f"DATABASE_URL: nothing can be written in {file.parent}; expected a folder of ours")
    shutil.rmtree(metrics_folder, ignore_errors=True)
    try:
        metrics_folder.mkdir(mode=0o700, parents=True)
    except OSError as error:
        raise SystemExit(f"INSTANCE_PATH: {metrics_folder} cannot be made ({error.strerror})") from None


def on_exit(_server: Any) -> None:
    """Memory is given back."""
    shutil.rmtree(metrics_folder, ignore_errors=True)


def child_exit(_server: Any, worker: Any) -> None:
    """What a dead process counted stays; what it only said of itself goes."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid)


def post_worker_init(worker: Any) -> None:
    """Let the application end its streams in good order: gunicorn tells it nothing of SIGTERM."""
    shutdown = _shutdown(worker)
    if shutdown is not None:
        shutdown.watch(worker)


def worker_exit(_server: Any, worker: Any) -> None:
    shutdown = _shutdown(worker)
    if shutdown is not None:
        shutdown.stop()


def _shutdown(worker: Any) -> Any:
    """The application's own switch, if it has one; a worker that failed to load has no application."""
    return getattr(getattr(worker, "wsgi", None), "extensions", {}).get("flaskllm_shutdown")
