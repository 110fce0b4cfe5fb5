"""Tables. Importing this package registers them all."""

from flaskllm.models import account, audit, catalogue, conversation, ledger, prompt, response

__all__ = ["account", "audit", "catalogue", "conversation", "ledger", "prompt", "response"]
