"""Tables. Importing this package registers them all."""

from flaskllm.models import (
    account,
    answer,
    audit,
    batch,
    body,
    catalogue,
    conversation,
    file,
    ledger,
    outbox,
    prompt,
    quota,
    response,
    rollup,
    worker,
)

__all__ = [
    "account",
    "answer",
    "audit",
    "batch",
    "body",
    "catalogue",
    "conversation",
    "file",
    "ledger",
    "outbox",
    "prompt",
    "quota",
    "response",
    "rollup",
    "worker",
]
