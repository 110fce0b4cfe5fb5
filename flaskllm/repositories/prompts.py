"""Where prompt templates come from: the file that is shipped."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Protocol

import yaml

from flaskllm.domain.prompt import PromptTemplate, read_template
from flaskllm.errors import NotFound

SHIPPED = Path(__file__).resolve().parent.parent / "data" / "prompts.yaml"


class TemplateStore(Protocol):
    """Templates by name."""

    def get(self, name: str) -> PromptTemplate:
        """Raises `NotFound`."""

    def all(self) -> Iterable[PromptTemplate]:
        """Every template, in a steady order."""


class ShippedTemplates:
    """The templates of ``data/prompts.yaml``, read once."""

    def get(self, name: str) -> PromptTemplate:
        found = _shipped().get(name)
        if found is None:
            raise NotFound("There is no such template; GET /api/v1/templates lists those that you may use.")
        return found

    def all(self) -> Iterable[PromptTemplate]:
        return _shipped().values()


@cache
def _shipped() -> dict[str, PromptTemplate]:
    documents = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))
    return {name: read_template(name, document) for name, document in documents.items()}
