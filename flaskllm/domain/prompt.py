"""What is asked of a model for a spreadsheet: six kinds, and the templates that serve them.

A template is filled in by substitution of its declared variables and nothing more: a value is never run, and never
looked at for further variables (CVE-2026-42203 was a template engine that did).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from flaskllm.domain.answer import Answer
from flaskllm.domain.language import LANGUAGES
from flaskllm.domain.usage import Usage
from flaskllm.errors import invalid

SOURCES = ("email", "meeting", "document", "chat", "other")

LONGEST_FILLED = 20 * 2**20
"""Characters of a text that is filled in: as many as a request's body may have bytes."""
_VARIABLE = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z0-9_]{0,63})\s*\}\}")


class PromptKind(StrEnum):
    SUMMARY = "summary"
    KEYWORDS = "keywords"
    SENTIMENT = "sentiment"
    ENTITIES = "entities"
    TRANSLATION = "translation"
    CUSTOM = "custom"


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """A prompt with places to fill in. ``variables``: each declared name to its default; None: it must be given.

    ``cache``: an answer that was given before will do, where the caller says nothing else.
    """

    name: str
    kind: PromptKind
    user_text: str
    variables: Mapping[str, str | None]
    system_text: str = ""
    description: str = ""
    model: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    cache: bool = False
    version: int = 1
    shipped: bool = True

    def messages(self, values: Mapping[str, str]) -> list[dict[str, Any]]:
        """The template filled in. Raises `InvalidRequest` for what is missing, was not declared, or is far too much."""
        filled = self._filled(values)
        if any(filled_length(text, filled) > LONGEST_FILLED for text in (self.system_text, self.user_text)):
            raise invalid(
                "variables", f"make a text of the template {self.name} longer than {LONGEST_FILLED} characters"
            )
        system, user = render(self.system_text, filled).strip(), render(self.user_text, filled)
        head = [{"role": "system", "content": system}] if system else []
        return [*head, {"role": "user", "content": user}]

    def _filled(self, values: Mapping[str, str]) -> dict[str, str]:
        for name in values:
            if name not in self.variables:
                raise invalid(f"variables.{name}", f"is no variable of the template {self.name}")
        filled = {**self.variables, **values}
        for name, value in filled.items():
            if value is None:
                raise invalid("prompt" if name == "text" else f"variables.{name}", "is required by this template")
        return {name: value for name, value in filled.items() if value is not None}


@dataclass(frozen=True, slots=True)
class PromptVersion:
    """A version as the history tells it. ``at``: when it was written; None for the shipped one. ``removed``: it only
    says that from here on there was no such template of an administrator's."""

    template: PromptTemplate
    at: datetime | None = None
    removed: bool = False


def variables_in(text: str) -> list[str]:
    """The variables that a text uses, each once, in the order in which they stand.

    >>> variables_in("{{ b }}, {{a}} and {{ b }}; not {{ 7*7 }}")
    ['b', 'a']
    """
    return list(dict.fromkeys(_VARIABLE.findall(text)))


def render(template: str, variables: Mapping[str, str]) -> str:
    """Substitute declared variables once; everything else stays as it is written.

    >>> render("{{ greeting }}, {{ name }}!", {"greeting": "{{ name }}", "name": "Ann"})
    '{{ name }}, Ann!'
    """
    return _VARIABLE.sub(lambda found: variables.get(found[1], found[0]), template)


def filled_length(template: str, variables: Mapping[str, str]) -> int:
    """How long `render` makes it at the most, known before it is made: a variable may stand in it thousands of times.

    >>> filled_length("{{a}}{{a}}", {"a": "xyz"})
    16
    """
    uses = Counter(_VARIABLE.findall(template))
    return len(template) + sum(uses[name] * len(value) for name, value in variables.items())


@dataclass(frozen=True, slots=True)
class PromptAsk:
    """What a caller of the webhook wants: a template or a kind, filled in with ``variables``.

    ``language``: ISO 639-1, of the answer, or the one to translate into. Without kind and template the prompt goes to
    the model as it is.
    """

    variables: Mapping[str, str]
    kind: PromptKind | None = None
    template: str | None = None
    language: str | None = None
    source: str | None = None
    model: str | None = None

    @property
    def template_name(self) -> str:
        """The template that serves it: its own choice, else the one shipped for its kind."""
        return self.template or self.kind or PromptKind.CUSTOM

    def messages(self, template: PromptTemplate) -> list[dict[str, Any]]:
        """The template filled in for this caller. Raises `InvalidRequest`."""
        self._check(template)
        messages = template.messages({**self._own(template), **self.variables})
        if self.language and "language" not in template.variables:
            return [{"role": "system", "content": f"Answer in {LANGUAGES[self.language]}."}, *messages]
        return messages

    def _check(self, template: PromptTemplate) -> None:
        if self.kind is not None and self.kind != template.kind:
            raise invalid("type", f"the template {template.name} is of the type {template.kind}")
        if template.kind is PromptKind.TRANSLATION and self.language is None and "language" not in self.variables:
            raise invalid("language", "is required for a translation")

    def _own(self, template: PromptTemplate) -> dict[str, str]:
        """The fields that are variables under another name, where the template declares them."""
        source = None if self.source == "other" else self.source
        own = {"language": LANGUAGES.get(self.language or ""), "source": source}
        return {name: value for name, value in own.items() if value and name in template.variables}


@dataclass(frozen=True, slots=True)
class PromptAnswer:
    """What came of a prompt. ``result``: the typed form, None where the kind has none or the model never managed it.

    ``usage`` and ``cost`` (10⁻⁹ dollar) are of both askings where there were two; ``answer`` tells the headers.
    """

    text: str
    result: Any
    kind: PromptKind
    answer: Answer
    seconds: float

    @property
    def usage(self) -> Usage:
        return self.answer.usage

    @property
    def cost(self) -> int | None:
        return self.answer.cost

    @property
    def model(self) -> str:
        return self.answer.model


@dataclass(frozen=True, slots=True)
class PromptTrial:
    """What came of trying a template out: one asking. ``complaint``: why its answer is not of the typed form."""

    answer: PromptAnswer
    complaint: str | None = None


def read_template(name: str, document: Mapping[str, Any]) -> PromptTemplate:
    """A template as the shipped file writes it. Raises `InvalidRequest`."""
    variables = dict(document.get("variables") or {})
    template = PromptTemplate(
        name=name,
        kind=PromptKind(document["type"]),
        description=document.get("description", ""),
        system_text=(document.get("system") or "").strip(),
        user_text=document["user"].strip(),
        variables=variables,
        model=document.get("model"),
        parameters=document.get("parameters") or {},
    )
    return declared(template)


def declared(template: PromptTemplate) -> PromptTemplate:
    """The template with its variables declared: those that its texts use, each to be given, where it names none.

    Raises `InvalidRequest` naming a text that uses a variable which the template does not declare.
    """
    texts = {"system_text": template.system_text, "user_text": template.user_text}
    used = {name: where for where, text in texts.items() for name in variables_in(text)}
    if not template.variables:
        return replace(template, variables=dict.fromkeys(used))
    for name, where in used.items():
        if name not in template.variables:
            raise invalid(where, f"uses the variable {name}, which is not declared in variables")
    return template
