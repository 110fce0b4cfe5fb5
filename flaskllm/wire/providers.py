"""S5's documents of providers, models and keys: read strictly, written with masks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from marshmallow import Schema, ValidationError, fields, validate, validates_schema

from flaskllm.domain.catalogue import ABILITIES, MODEL_TYPES, TIERS
from flaskllm.domain.pricing import INPUTS, OUTPUTS, Price, to_dollars
from flaskllm.domain.provider import (
    LONGEST_KEY,
    MODEL_ID,
    MOST_MODELS,
    PROVIDER_ID,
    KeyFields,
    ModelFields,
    ProviderFields,
)
from flaskllm.domain.text import can_be_held
from flaskllm.errors import invalid
from flaskllm.wire.fields import Choice, Flag, Moment, Number, Several, Text, Whole, iso, load
from flaskllm.wire.shapes import (
    COST,
    FLAG,
    MOMENT,
    STRING,
    USAGE,
    WHOLE,
    Shape,
    maybe,
    of_form,
    one_of,
    record,
    several,
)

MOST_WHOLE = 2**31 - 1
RATED = (*INPUTS, *OUTPUTS)
"""The buckets that a price has rates for; a rate that is not stated is that of ``input`` or ``output``."""
MOST_DOLLARS = 1_000_000
MOST_PRICES = 100
MOST_PARAMS = 64
ID_FORM = "must be 1 to 64 of A-Z a-z 0-9 . _ - and begin with a letter or digit"
NAME_FORM = "must be letters, digits and . _ : / @ + ~ - without empty steps, dots alone or a slash at the end"
KEY_FORM = "must be the key itself, in printable ASCII without spaces; a mask is none"


# -- bodies -----------------------------------------------------------------------------------------------------------


class Params(fields.Field[Any]):
    """``connection_params``: names to values, each checked by the adapter that knows it; null takes one out."""

    def __init__(self, **rest: Any) -> None:
        super().__init__(**rest)
        self.validators.insert(0, _is_params)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> dict[str, Any]:
        if not isinstance(value, dict) or len(value) > MOST_PARAMS:
            raise ValidationError(f"must be an object of at most {MOST_PARAMS} parameters")
        return value


@of_form(type="object", maxProperties=MOST_PARAMS)
def _is_params(value: dict[str, Any]) -> None:
    if not all(can_be_held(name) for name in value):
        raise ValidationError("must have names without NUL and half characters")


class Rules(fields.Field[Any]):
    """A model's ``params``: a parameter's name to ``drop``, ``refuse`` or the name that it has there."""

    def __init__(self, **rest: Any) -> None:
        super().__init__(**rest)
        self.validators.insert(0, _are_rules)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> dict[str, str]:
        if not isinstance(value, dict) or len(value) > MOST_PARAMS:
            raise ValidationError(f"must be an object of at most {MOST_PARAMS} parameters")
        return value


@of_form(
    type="object",
    maxProperties=MOST_PARAMS,
    additionalProperties={"type": "string", "minLength": 1, "maxLength": 64},
)
def _are_rules(value: dict[str, Any]) -> None:
    for name, rule in value.items():
        if not (isinstance(rule, str) and 0 < len(rule) <= 64 and 0 < len(name) <= 64 and can_be_held(name + rule)):
            raise ValidationError("must have names and rules of 1 to 64 characters: drop, refuse or another name")


def _as_written(name: str) -> dict[str, str]:
    """For S2's names, which stay as they are in the row and in every document."""
    return {"data_key": name, "attribute": name}


def _dollars(name: str) -> Number:
    return Number(least=0, most=MOST_DOLLARS, allow_none=True, **_as_written(name))


class TokenPriceSchema(Schema):
    """US dollars for ``unitOfMeasure`` tokens."""

    input_value = _dollars("inputValue")
    output_value = _dollars("outputValue")
    cache_read_value = _dollars("cacheReadValue")
    cache_write_5m_value = _dollars("cacheWrite5mValue")
    cache_write_1h_value = _dollars("cacheWrite1hValue")
    reasoning_value = _dollars("reasoningValue")
    audio_input_value = _dollars("audioInputValue")
    audio_output_value = _dollars("audioOutputValue")
    image_input_value = _dollars("imageInputValue")
    image_output_value = _dollars("imageOutputValue")


class PixelPriceSchema(Schema):
    """US dollars for one image of this size and quality."""

    width = Whole(least=1, most=100_000, required=True)
    height = Whole(least=1, most=100_000, required=True)
    value = Number(least=0, most=MOST_DOLLARS, required=True)
    quality = Text(least=1, most=32, allow_none=True)


class PriceSchema(Schema):
    """One price as S2 prints it."""

    id = Text(least=1, most=64)
    unit_of_measure = Whole(least=1, most=10**9, **_as_written("unitOfMeasure"))
    currency = Choice("USD")
    token = fields.Nested(TokenPriceSchema)
    pixel = fields.Nested(PixelPriceSchema)

    @validates_schema
    def _says_something(self, data: dict[str, Any], **_: Any) -> None:
        if not data.get("token") and not data.get("pixel"):
            raise ValidationError("must have a price: token or pixel")


class ModelSchema(Schema):
    """A model of a provider."""

    model_id = Text(least=1, most=128, pattern=MODEL_ID, form=NAME_FORM, required=True)
    provider_id = Text(least=1, most=64)
    display_name = Text(least=1, most=128)
    description = Text(most=2000)
    model_type = Choice(*MODEL_TYPES)
    context_window = Whole(least=1, most=MOST_WHOLE, allow_none=True)
    max_tokens = Whole(least=1, most=MOST_WHOLE, allow_none=True)
    enabled = Flag()
    backend_model = Text(least=1, most=128, pattern=r"[\x21-\x7e]+", form="must be printable ASCII without spaces")
    tier = Choice(*TIERS, allow_none=True)
    tier_head = Flag()
    aliases = Several(Text(least=1, most=128, pattern=MODEL_ID, form=NAME_FORM), most=32)
    capabilities = Several(Choice(*ABILITIES), most=len(ABILITIES))
    prices = fields.List(
        fields.Nested(PriceSchema),
        allow_none=True,
        validate=validate.Length(max=MOST_PRICES, error=f"must have at most {MOST_PRICES} entries"),
    )
    valid_from = Moment()
    timeout_s = Number(least=0.1, most=600, allow_none=True)
    params = Rules()
    training_data = Text(least=1, most=64, allow_none=True)


class KeySchema(Schema):
    """A key. ``is_encrypted`` is S5's word; what comes in is the key itself, and it is always encrypted here."""

    key_value = Text(least=1, most=LONGEST_KEY, pattern=r"[\x21-\x7e]+", form=KEY_FORM, required=True)
    is_encrypted = Flag()
    endpoint = Text(least=1, most=64, allow_none=True)


class ProviderSchema(Schema):
    """A provider."""

    provider_id = Text(least=1, most=64, pattern=PROVIDER_ID, form=ID_FORM, required=True)
    display_name = Text(least=1, most=128)
    provider_type = Text(least=1, most=64, required=True)
    description = Text(most=2000)
    enabled = Flag()
    connection_params = Params()
    models = fields.List(
        fields.Nested(ModelSchema),
        validate=validate.Length(max=MOST_MODELS, error=f"must have at most {MOST_MODELS} entries"),
    )
    api_key = fields.Nested(KeySchema, allow_none=True)
    default_model = Text(least=1, most=128, allow_none=True)


class CheckSchema(Schema):
    """``model``: another one than the provider's default."""

    model = Text(least=1, most=256)


PROVIDER, PROVIDER_CHANGES = ProviderSchema(), ProviderSchema(partial=("provider_id", "provider_type"))
MODEL, MODEL_CHANGES = ModelSchema(), ModelSchema(partial=("model_id",))
KEY, CHECK = KeySchema(), CheckSchema()


def read_provider(body: dict[str, Any]) -> ProviderFields:
    return cast("ProviderFields", load(PROVIDER, body))


def read_provider_changes(body: dict[str, Any]) -> ProviderFields:
    return cast("ProviderFields", load(PROVIDER_CHANGES, body))


def read_model(body: dict[str, Any]) -> ModelFields:
    return cast("ModelFields", load(MODEL, body))


def read_model_changes(body: dict[str, Any]) -> ModelFields:
    return cast("ModelFields", load(MODEL_CHANGES, body))


def read_key(body: dict[str, Any]) -> KeyFields:
    return cast("KeyFields", load(KEY, body))


def read_priced_model(given: Mapping[str, str]) -> str:
    """``?model=``, whose prices are asked for. Raises `InvalidRequest` where it is missing."""
    if not given.get("model"):
        raise invalid("model", "is missing; it is the id of the model whose prices are asked for")
    return given["model"]


def read_check(body: dict[str, Any]) -> str | None:
    """The model that is to be asked, where one is named."""
    return load(CHECK, body).get("model")


# -- documents --------------------------------------------------------------------------------------------------------


def write_model(row: Any) -> dict[str, Any]:
    return {
        "model_id": row.name,
        "provider_id": row.provider_id,
        "display_name": row.display_name,
        "description": row.description,
        "model_type": row.type,
        "context_window": row.context_window,
        "max_tokens": row.max_tokens,
        "enabled": row.enabled,
        "backend_model": row.backend_model,
        "tier": row.tier,
        "tier_head": row.tier_head,
        "aliases": list(row.aliases),
        "capabilities": list(row.abilities),
        "prices": row.prices,
        "timeout_s": row.timeout_s,
        "params": dict(row.params),
        "training_data": row.training_data,
    }


def write_models(rows: Iterable[Any]) -> list[dict[str, Any]]:
    return [write_model(row) for row in rows]


def write_prices(periods: Iterable[Any]) -> list[dict[str, Any]]:
    """A model's price history; ``rates`` in US dollars for a million tokens."""
    return [
        {
            "id": period.row.id,
            "state": period.state,
            "valid_from": iso(period.row.valid_from),
            "valid_until": iso(period.until),
            "version": period.row.version or None,
            "prices": period.row.prices,
            "rates": None if period.price is None else _rates(period.price),
            "above": [
                {"prompt_tokens": step, "rates": _rates(price)}
                for step, price in (period.price.above if period.price else ())
            ],
        }
        for period in periods
    ]


def _rates(price: Price) -> dict[str, float | None]:
    return {name: to_dollars(rate) for name in RATED if (rate := getattr(price, name)) is not None}


def write_key(key: Any) -> dict[str, Any]:
    return {
        "key_id": key.id,
        "key_value": key.mask,
        "is_encrypted": True,
        "endpoint": key.endpoint,
        "source": key.source,
        "status": key.status,
        "aside_until": iso(key.aside_until),
        "last_error": key.last_error,
        "created_at": iso(key.created_at),
    }


def write_keys(keys: Iterable[Any]) -> list[dict[str, Any]]:
    return [write_key(key) for key in keys]


def write_provider(view: Any) -> dict[str, Any]:
    """``enabled`` is the administrator's switch, ``on`` what came of it; ``api_key`` the first of the keys."""
    row, keys = view.row, write_keys(view.keys)
    return {
        "provider_id": row.id,
        "display_name": row.display_name,
        "provider_type": row.kind,
        "description": row.description,
        "enabled": row.enabled is not False,
        "on": view.state.on,
        "reason": view.reason,
        "connection_params": dict(view.connection),
        "endpoints": [at.id for at in view.state.endpoints],
        "default_model": row.default_model,
        "models": write_models(view.models),
        "api_key": keys[0] if keys else None,
        "keys": keys,
        "origin": row.origin,
        "created_at": iso(row.created_at),
        "updated_at": iso(row.updated_at),
    }


def write_providers(views: Iterable[Any]) -> list[dict[str, Any]]:
    return [write_provider(view) for view in views]


def write_check(report: Any) -> dict[str, Any]:
    usage = report.usage
    return {
        "ok": report.works,
        "provider_id": report.provider,
        "model": report.model,
        "endpoint": report.endpoint,
        "key": report.key,
        "seconds": report.seconds,
        "message": report.message,
        "usage": usage.to_openai() if usage else None,
        "cost": to_dollars(report.cost),
    }


# -- their forms ------------------------------------------------------------------------------------------------------

RATE: Shape = {"type": ["number", "null"], "minimum": 0}
MODEL_SHOWN = record(
    "ProviderModel",
    model_id=STRING,
    provider_id=STRING,
    display_name=STRING,
    description=STRING,
    model_type=one_of(*MODEL_TYPES),
    context_window=maybe(WHOLE),
    max_tokens=maybe(WHOLE),
    enabled=FLAG,
    backend_model=STRING,
    tier=one_of(*TIERS, None),
    tier_head=FLAG,
    aliases=several(STRING),
    capabilities=several(one_of(*ABILITIES)),
    prices=maybe(several({"type": "object"})),
    timeout_s=RATE,
    params={"type": "object", "additionalProperties": STRING},
    training_data=maybe(STRING),
)
RATES_SHOWN = record("TokenRates", optional={name: {"type": "number", "minimum": 0} for name in RATED})
PRICE_SHOWN = record(
    "ModelPrice",
    id=STRING,
    state=one_of("past", "in_force", "scheduled"),
    valid_from=MOMENT,
    valid_until=maybe(MOMENT),
    version=maybe({"type": "string", "description": "Where its figures come from; null where no price is known"}),
    prices=maybe(several({"type": "object"})),
    rates={"anyOf": [RATES_SHOWN, {"type": "null"}], "description": "US dollars for a million tokens of each bucket"},
    above=several(
        record(
            prompt_tokens={"type": "integer", "description": "Calls with more than these are priced by its rates"},
            rates=RATES_SHOWN,
        )
    ),
)
KEY_SHOWN = record(
    "ProviderKey",
    key_id=STRING,
    key_value={"type": "string", "description": "A mask: the last four characters"},
    is_encrypted={"const": True},
    endpoint=maybe(STRING),
    source=one_of("stored", "environment"),
    status=one_of("active", "aside"),
    aside_until=maybe(MOMENT),
    last_error=maybe(STRING),
    created_at=maybe(MOMENT),
)
PROVIDER_SHOWN = record(
    "Provider",
    provider_id=STRING,
    display_name=STRING,
    provider_type=STRING,
    description=STRING,
    enabled=FLAG,
    on=FLAG,
    reason=maybe({"type": "string", "description": "Why it is off, and what to do"}),
    connection_params={"type": "object"},
    endpoints=several(STRING),
    default_model=maybe(STRING),
    models=several(MODEL_SHOWN),
    api_key=maybe(KEY_SHOWN),
    keys=several(KEY_SHOWN),
    origin=one_of("shipped", "touched", "own"),
    created_at=MOMENT,
    updated_at=MOMENT,
)
CHECK_SHOWN = record(
    "ProviderCheck",
    ok=FLAG,
    provider_id=STRING,
    model=maybe(STRING),
    endpoint=maybe(STRING),
    key=maybe(STRING),
    seconds={"type": ["number", "null"], "minimum": 0},
    message=STRING,
    usage=maybe(USAGE),
    cost=COST,
)
