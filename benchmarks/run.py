"""``make bench``: this gateway under the kit's load, one worker on one core, the load and the mock provider on another.

    python run.py bench [--only plain,delay,stream] [--runs 3] [--duration 5] [--c 1,16,64]

Figures are for comparing before and after on one machine; ``kit/README.md`` says how peers are measured beside it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KIT = ROOT / "benchmarks" / "kit"
BIN = Path(sys.executable).parent
MOCK_PORT, PORT = 9101, 9310
MODELS = {"mock": "/v1", "d1000": "/d1000/v1", "s100i10": "/c100/i10/v1", "s100i0": "/c100/v1"}
"""Each a provider of its own, because the mock is told what to do by its address."""
PRICE = "[{unitOfMeasure: 1000000, currency: USD, token: {inputValue: 1.0, outputValue: 2.0}}]"


def catalogue() -> str:
    lines = ["models:"]
    for name, path in MODELS.items():
        base = f"http://127.0.0.1:{MOCK_PORT}{path}"
        lines.append(
            f"  {name}: {{backend_type: openai_compatible, base_url: {base}, model_name: {name}, prices: {PRICE}}}"
        )
    return "\n".join(lines) + "\n"


def environment(folder: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "ENVIRONMENT": "testing",
        "INSTANCE_PATH": str(folder / "instance"),
        "LOG_DIR": str(folder / "logs"),
        "LLM_GATEWAY_CONFIG_PATH": str(folder / "models.yaml"),
        "PORT": str(PORT),
        "WEB_CONCURRENCY": "1",
        "WEB_THREADS": "1024",
        "RATE_LIMIT_PER_MINUTE": "1000000",
        **{name: os.environ[name] for name in ("DATABASE_URL", "SQLITE_SYNCHRONOUS") if name in os.environ},
    }


def wait_for(url: str) -> None:
    for _ in range(200):
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"{url} does not answer")


def main(arguments: list[str]) -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "models.yaml").write_text(catalogue())
        env = environment(folder)
        flask = [str(BIN / "flask"), "--app", "wsgi"]
        for command in (["db", "upgrade"], ["seed"]):
            subprocess.run([*flask, *command], cwd=ROOT, env=env, check=True, stdout=subprocess.DEVNULL)
        made = subprocess.run(
            [*flask, "tokens", "create", "bench", "--scope", "chat", "--rpm", "1000000"],
            cwd=ROOT, env=env, check=True, capture_output=True, text=True,
        )  # fmt: skip
        return measure(arguments, env, made.stdout.split()[-1], folder)


def measure(arguments: list[str], env: dict[str, str], token: str, folder: Path) -> int:
    output = (folder / "server.out").open("wb")
    mock = subprocess.Popen(
        ["taskset", "-c", "1", sys.executable, str(KIT / "mock_upstream.py"), "--port", str(MOCK_PORT)]
    )
    started = time.monotonic()
    gateway = subprocess.Popen(
        ["taskset", "-c", "0", str(BIN / "gunicorn"), "-c", str(ROOT / "gunicorn.conf.py"), "wsgi:app"],
        cwd=ROOT, env=env, stdout=output, stderr=output,
    )  # fmt: skip
    try:
        wait_for(f"http://127.0.0.1:{PORT}/health/live")
        print(f"flaskllm start to first healthy answer: {time.monotonic() - started:.2f} s", flush=True)
        suite = [
            sys.executable, str(KIT / "suite.py"), "--name", "flaskllm", "--pid", str(gateway.pid),
            "--url", f"http://127.0.0.1:{PORT}/v1/chat/completions", "--header", f"Authorization: Bearer {token}",
            "--models", ",".join(MODELS), "--out", str(folder / "results.jsonl"), *arguments,
        ]  # fmt: skip
        return subprocess.run(suite, cwd=KIT, check=False).returncode
    except SystemExit:
        print((folder / "server.out").read_text()[-2000:], file=sys.stderr)
        raise
    finally:
        for process in (gateway, mock):
            process.terminate()
            process.wait(60)
        output.close()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
