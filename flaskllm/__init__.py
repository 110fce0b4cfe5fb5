"""FlaskLLM: one Flask application between a company's clients and the LLM providers.

`create_app` is given lazily, so that ``import flaskllm.client`` needs no server package.
"""

from __future__ import annotations

from typing import Any

from flaskllm.version import VERSION as __version__  # noqa: N811  (the name that tools look for)

__all__ = ["__version__", "create_app"]


def __getattr__(name: str) -> Any:
    if name == "create_app":
        from flaskllm.app import create_app

        return create_app
    raise AttributeError(name)
