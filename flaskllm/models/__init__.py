"""Tables. Importing this package registers them all."""

from flaskllm.models import account, catalogue, conversation, ledger

__all__ = ["account", "catalogue", "conversation", "ledger"]
