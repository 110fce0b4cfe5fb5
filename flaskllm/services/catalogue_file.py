"""The catalogue as a file: S4's ``models.yaml``, shipped, and an operator's own laid over it.

```yaml
providers:                       # optional; an entry below may name one of these, or becomes a provider of its own
  llama: {kind: openai_compatible, display_name: Llama, base_url: "${LLAMA_API_URL}"}
routes:                          # optional: one name for several models, as POST /routes takes it
  house: {strategy: weighted, targets: [{model: openai/gpt-4o, weight: 3}, llama/llama-7b]}
models:
  llama-7b:                      # or provider/name, where a name occurs more than once
    display_name: "Llama 7B"
    backend_type: "openai_compatible"
    base_url: "${LLAMA_API_URL}"
    model_name: "llama-7b-instruct"
    max_tokens: 2048
    tier: "small"
```

``${VARIABLE}`` in an address or a key stays as it is written until the catalogue is loaded, so that neither gets into
the database; anywhere else it is filled in here, and an entry whose variable is unset is off.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import yaml

try:
    from yaml import CSafeLoader as SafeLoader
except ImportError:  # built without libyaml
    from yaml import SafeLoader  # type: ignore[assignment]

from flaskllm.domain.catalogue import ABILITIES, MODEL_TYPES, TIERS, TIMEOUTS
from flaskllm.domain.provider import CHOICES, ROUTE_NAME, TARGET
from flaskllm.domain.route import FALLBACKS, MOST_FALLBACKS, MOST_TARGETS, MOST_WEIGHT, STRATEGIES
from flaskllm.services.price_book import stated_price

SHIPPED = Path(__file__).resolve().parent.parent / "data" / "models.yaml"
PLACEHOLDER = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
PROVIDER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
MODEL_NAME = re.compile(r"[^\s\x00-\x1f,]{1,128}")
Variable = Callable[[str], str | None]


class CatalogueFileError(ValueError):
    """A catalogue file cannot be used; the message names file and entry."""


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One model as the file has it; the fields are those of its row."""

    provider_id: str
    name: str
    row: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ProviderEntry:
    """One provider as the file has it. ``addresses``: by which an entry without ``provider`` is known to be its own."""

    id: str
    row: Mapping[str, Any]
    addresses: tuple[str, ...] = ()


@dataclass(slots=True)
class CatalogueFile:
    """What is to be seeded, in order."""

    providers: dict[str, ProviderEntry] = field(default_factory=dict)
    models: dict[tuple[str, str], ModelEntry] = field(default_factory=dict)
    routes: dict[str, Mapping[str, Any]] = field(default_factory=dict)


def read_catalogue(overlay: Path | None = None, *, variable: Variable, shipped: Path = SHIPPED) -> CatalogueFile:
    """The shipped catalogue with the operator's file laid over it. Raises `CatalogueFileError`.

    Where the operator's file puts models into a tier, those lead it: in S4 the file is all that there is.
    """
    whole = CatalogueFile()
    _Reader(shipped, whole, variable).read()
    if overlay is not None:
        _lead(whole, _Reader(overlay, whole, variable).read())
    return whole


def _lead(whole: CatalogueFile, own: set[tuple[str, str]]) -> None:
    """Make these models the heads of their tiers: all of a tier's, or those that are marked; not one that is off."""
    placed = [at for at in own if whole.models[at].row["enabled"] and whole.models[at].row.get("tier")]
    for tier in {whole.models[at].row["tier"] for at in placed}:
        ours = [at for at in placed if whole.models[at].row["tier"] == tier]
        heads = [at for at in ours if whole.models[at].row["tier_head"]] or ours
        for at, model in whole.models.items():
            if model.row.get("tier") == tier:
                whole.models[at] = replace(model, row={**model.row, "tier_head": at in heads})


def filled(text: str, variable: Variable) -> str | None:
    """The text with its ``${…}`` filled in; None where one is unset."""
    if missing(text, variable):
        return None
    return PLACEHOLDER.sub(lambda match: variable(match[1]) or "", text)


def missing(text: str, variable: Variable) -> list[str]:
    """The variables in a text that are unset."""
    return [name for name in PLACEHOLDER.findall(text) if not variable(name)]


class _Loader(SafeLoader):
    """Plain values only, and no key twice: YAML itself would let the last one win without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        for key in seen:
            if seen.count(key) > 1:
                line = node.start_mark.line + 1
                raise yaml.MarkedYAMLError(problem=f"{key!r} stands twice in the mapping of line {line}")
        return super().construct_mapping(node, deep)


class _Reader:
    """One file into the whole."""

    def __init__(self, path: Path, whole: CatalogueFile, variable: Variable) -> None:
        self._path = path
        self._whole = whole
        self._variable = variable

    def read(self) -> set[tuple[str, str]]:
        """Gives the models that the file speaks of: provider and name."""
        document = self._document()
        self._only(document, "the file", {"providers", "models", "routes"})
        for provider_id, entry in self._entries(document, "providers"):
            self._provider(provider_id, entry)
        for name, entry in self._entries(document, "routes"):
            self._route(name, entry)
        return {self._model(key, entry) for key, entry in self._entries(document, "models")}

    def _document(self) -> dict[str, Any]:
        try:
            document = yaml.load(self._path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506  (a safe loader)
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            reason = " ".join(str(getattr(error, "problem", None) or error).split())
            raise CatalogueFileError(f"{self._path}: cannot be read as YAML: {reason}") from None
        if not isinstance(document, dict):
            raise CatalogueFileError(f"{self._path}: expected a mapping with `models:`")
        return document

    def _entries(self, document: Mapping[str, Any], section: str) -> Iterator[tuple[str, dict[str, Any]]]:
        entries = document.get(section) or {}
        if not isinstance(entries, dict):
            raise CatalogueFileError(f"{self._path}: {section}: expected a mapping of names to entries")
        for key, entry in entries.items():
            if not isinstance(key, str) or not isinstance(entry, dict):
                raise self._fault(f"{section}.{key}", "expected a name and a mapping of fields")
            yield key, entry

    def _fault(self, where: str, message: str) -> CatalogueFileError:
        return CatalogueFileError(f"{self._path}: {where}: {message}")

    def _only(self, entry: Mapping[str, Any], where: str, known: set[str]) -> None:
        if unknown := sorted(str(name) for name in set(entry) - known):
            raise self._fault(where, f"unknown field {', '.join(unknown)}; known are {', '.join(sorted(known))}")

    # -- providers ----------------------------------------------------------------------------------------------------

    def _provider(self, provider_id: str, entry: dict[str, Any]) -> None:
        where = f"providers.{provider_id}"
        self._only(entry, where, PROVIDER_FIELDS)
        if not PROVIDER_ID.fullmatch(provider_id):
            raise self._fault(where, "expected an id of letters, digits, `_`, `.` and `-`")
        before = self._whole.providers.get(provider_id)
        if before is None and "kind" not in entry:
            raise self._fault(where, "kind: missing; it says which wire to speak, such as openai_compatible")
        fields = {name: self._checked(where, name, value) for name, value in entry.items()}
        row = dict(before.row) if before else {**PLAIN_PROVIDER, "uid": stable_id(provider_id)}
        row["display_name"] = row["display_name"] or provider_id
        row["shipped"] = {**row.get("shipped", {}), **{n: fields.pop(n) for n in OPERATORS_WORDS if n in fields}}
        addresses = tuple(fields.pop("addresses", ())) + (before.addresses if before else ())
        row |= fields
        row.setdefault("position", len(self._whole.providers))
        self._whole.providers[provider_id] = ProviderEntry(provider_id, row, addresses)

    def _checked(self, where: str, name: str, value: Any) -> Any:
        """A field's value, of the type that it has to be, its variables filled in where that may be written down."""
        expected, check = FIELDS[name]
        if isinstance(value, str) and name not in OPERATORS_WORDS:
            value = filled(value, self._variable)
        try:
            fits = value is None or check(value)
        except (TypeError, ValueError, KeyError, ArithmeticError) as error:
            raise self._fault(where, f"{name}: {error}") from None
        if not fits:
            raise self._fault(where, f"{name}: expected {expected}, got {value!r:.80}")
        return value

    # -- routes -------------------------------------------------------------------------------------------------------

    def _route(self, name: str, entry: dict[str, Any]) -> None:
        """Its form alone: a target that nobody has (yet) is passed over when it is asked."""
        where = f"routes.{name}"
        self._only(entry, where, ROUTE_FIELDS)
        if not re.fullmatch(ROUTE_NAME, name) or name in CHOICES:
            raise self._fault(where, "expected a name without a slash, and no tier or `auto`")
        if "targets" not in entry:
            raise self._fault(where, "targets: missing; each is provider/model")
        found = {own: self._checked(where, own, value) for own, value in entry.items()}
        targets = [{"model": one} if isinstance(one, str) else one for one in found["targets"]]
        self._whole.routes[name] = {
            "strategy": found.get("strategy") or "priority",
            "targets": [{"weight": 1, **target} for target in targets],
            "fallbacks": found.get("fallbacks") or {},
        }

    # -- models -------------------------------------------------------------------------------------------------------

    def _model(self, key: str, entry: dict[str, Any]) -> tuple[str, str]:
        where = f"models.{key}"
        self._only(entry, where, MODEL_FIELDS)
        provider_id, name = self._placed(where, key, entry)
        if not MODEL_NAME.fullmatch(name):
            raise self._fault(where, "expected a name without spaces and commas, of at most 128 characters")
        before = self._whole.models.get((provider_id, name))
        plain = {own: value for own, value in entry.items() if own not in ROUTING}
        off = [text for text in plain.values() if isinstance(text, str) and missing(text, self._variable)]
        fields = {RENAMED.get(own, own): self._checked(where, own, value) for own, value in plain.items()}
        row = dict(before.row) if before else self._fresh(provider_id, name)
        row |= {own: value for own, value in fields.items() if value is not None}
        row["enabled"] = row["enabled"] and not off
        row["backend_model"] = row.get("backend_model") or name
        self._whole.models[provider_id, name] = ModelEntry(provider_id, name, row)
        return provider_id, name

    def _fresh(self, provider_id: str, name: str) -> dict[str, Any]:
        position = len(self._whole.models)
        return {**PLAIN_MODEL, "id": stable_id(provider_id, name), "display_name": name, "position": position}

    def _placed(self, where: str, key: str, entry: Mapping[str, Any]) -> tuple[str, str]:
        """Whose model it is, and its name there."""
        for own in ROUTING:
            self._checked(where, own, entry.get(own))
        prefix, slash, rest = key.partition("/")
        named = entry.get("provider")
        if slash and prefix in self._whole.providers and named in (None, prefix):
            return prefix, rest
        if named is not None and named not in self._whole.providers:
            known = ", ".join(self._whole.providers)
            raise self._fault(where, f"provider: {named!r} is none of {known}; describe it under `providers:`")
        if named is not None and entry.get("base_url") not in (None, *self._addresses(named)):
            raise self._fault(where, f"base_url: an address of its own belongs to `providers.{named}.base_url`")
        return named or self._by_address(key, entry) or self._own_provider(where, key, entry), key

    def _addresses(self, provider_id: str) -> tuple[str | None, ...]:
        provider = self._whole.providers[provider_id]
        return (*provider.addresses, provider.row["shipped"].get("base_url"))

    def _by_address(self, key: str, entry: Mapping[str, Any]) -> str | None:
        """The provider whose address it is; S4's own file names addresses only."""
        address, kind = entry.get("base_url"), entry.get("backend_type")
        for provider_id, provider in self._whole.providers.items():
            if address is not None and address in self._addresses(provider_id):
                return provider_id
            if address is None and kind is not None and provider.row["kind"] == kind:
                return provider_id
        return next((owner for owner, name in self._whole.models if name == key and not entry.get("base_url")), None)

    def _own_provider(self, where: str, key: str, entry: Mapping[str, Any]) -> str:
        if entry.get("backend_type") is None:
            raise self._fault(where, "backend_type: missing, and no `provider` is named")
        provider_id = re.sub(r"[^A-Za-z0-9_.-]", "-", key).strip("-.")[:64]
        said = {"base_url": entry.get("base_url"), "api_key": entry.get("api_key")}
        kind = {"kind": entry["backend_type"], "display_name": entry.get("display_name") or key}
        self._provider(provider_id, kind | {own: value for own, value in said.items() if value is not None})
        return provider_id


def stable_id(*names: str) -> str:
    """The same id on every seeding and in every process."""
    return str(uuid5(NAMESPACE_URL, "https://flaskllm/catalogue/" + "/".join(names)))


def _text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 2000


def _short(value: Any) -> bool:
    return _text(value) and len(value) <= 128


def _whole_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31


def _from(allowed: tuple[str, ...]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(item in allowed for item in value)


def _key_variable(value: Any) -> bool:
    return isinstance(value, str) and PLACEHOLDER.fullmatch(value) is not None


def _address(value: Any) -> bool:
    return _text(value) and value.startswith(("http://", "https://", "${"))


def _prices(value: Any) -> bool:
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        return False
    stated_price(value)
    return True


def _names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) and MODEL_NAME.fullmatch(item) for item in value)


def _rules(value: Any) -> bool:
    return isinstance(value, dict) and all(_short(name) and _short(rule) for name, rule in value.items())


def _uuid(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f-]{36}", value) is not None


def _seconds(value: Any) -> bool:
    return isinstance(value, int | float | Decimal) and 0 < value <= 600


def _targets(value: Any) -> bool:
    if not isinstance(value, list) or not 0 < len(value) <= MOST_TARGETS:
        return False
    return all(_target({"model": one} if isinstance(one, str) else one) for one in value)


def _target(value: Any) -> bool:
    if not isinstance(value, dict) or not set(value) <= {"model", "weight"}:
        return False
    model, weight = value.get("model"), value.get("weight", 1)
    fits = isinstance(model, str) and re.fullmatch(TARGET, model) is not None
    return fits and type(weight) is int and 0 <= weight <= MOST_WEIGHT


def _fallbacks(value: Any) -> bool:
    return isinstance(value, dict) and all(
        kind in FALLBACKS and _names(names) and len(names) <= MOST_FALLBACKS for kind, names in value.items()
    )


def _connection(value: Any) -> bool:
    times = value.get("timeouts", {}) if isinstance(value, dict) else None
    return isinstance(times, dict) and all(name in TIMEOUTS and _seconds(given) for name, given in times.items())


FIELDS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "id": ("a UUID", _uuid),
    "uid": ("a UUID", _uuid),
    "kind": ("the name of a wire", _short),
    "backend_type": ("the name of a wire", _short),
    "provider": ("a provider's id", _short),
    "base_url": ("an address, or a variable that holds one: ${NAME}", _address),
    "addresses": ("a list of addresses", lambda value: all(_address(item) for item in value)),
    "api_key": ("the variable that holds the key: ${NAME}; a key itself does not belong into a file", _key_variable),
    "last_resort": ("true or false", lambda value: isinstance(value, bool)),
    "connection": ("a mapping; its timeouts one of seconds, at most 600, by what they are for", _connection),
    "default_model": ("a model's name", _short),
    "display_name": ("a text of at most 128 characters", _short),
    "description": ("a text", _text),
    "model_name": ("the name that the provider knows", _short),
    "type": (f"one of {', '.join(MODEL_TYPES)}", lambda value: value in MODEL_TYPES),
    "tier": (f"one of {', '.join(TIERS)}", lambda value: value in TIERS),
    "tier_head": ("true or false", lambda value: isinstance(value, bool)),
    "aliases": ("a list of names", _names),
    "context_window": ("a number of tokens", _whole_number),
    "max_tokens": ("a number of tokens", _whole_number),
    "abilities": (f"a list from {', '.join(ABILITIES)}", _from(ABILITIES)),
    "prices": ("a list of prices as GET /llm-gate/v1/providers shows them", _prices),
    "params": ("a mapping of parameters to drop, refuse or another name", _rules),
    "timeout_s": ("seconds, at most 600", _seconds),
    "training_data": ("a text of at most 64 characters", lambda value: _short(value) and len(value) <= 64),
    "enabled": ("true or false", lambda value: isinstance(value, bool)),
    "strategy": (f"one of {', '.join(STRATEGIES)}", lambda value: value in STRATEGIES),
    "targets": (f"a list of 1 to {MOST_TARGETS}, each provider/model or {{model, weight}}", _targets),
    "fallbacks": (f"lists of models by {' or '.join(FALLBACKS)}", _fallbacks),
}
"""What a field has to be, in words and as a check."""

OPERATORS_WORDS = ("base_url", "api_key", "last_resort")
ROUTING = ("provider", "backend_type", "base_url", "api_key")
PROVIDER_FIELDS = {
    "uid", "kind", "base_url", "addresses", "api_key", "last_resort", "connection", "default_model", "display_name",
    "description", "enabled",
}  # fmt: skip
MODEL_FIELDS = {
    *ROUTING, "id", "display_name", "description", "model_name", "type", "tier", "tier_head", "aliases",
    "context_window", "max_tokens", "abilities", "prices", "params", "timeout_s", "training_data", "enabled",
}  # fmt: skip
ROUTE_FIELDS = {"strategy", "targets", "fallbacks"}
PLAIN_PROVIDER: Mapping[str, Any] = {
    "display_name": "", "description": "", "connection": {}, "default_model": None, "enabled": None,
}  # fmt: skip
PLAIN_MODEL: Mapping[str, Any] = {
    "description": "", "type": "chat", "tier": None, "tier_head": False, "aliases": [], "context_window": None,
    "max_tokens": None, "abilities": [], "prices": None, "params": {}, "timeout_s": None, "training_data": None,
    "enabled": True,
}  # fmt: skip
"""Every field of a row has a value, so that one taken out of a file goes back to what it was."""
RENAMED = {"model_name": "backend_model"}
