"""Providers, their models and their encrypted keys, and the version by which every process sees a change."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Boolean, Float, ForeignKey, Integer, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from flaskllm.extensions import Model
from flaskllm.models.types import JsonText, UtcDateTime, new_id, now


class ProviderRow(Model):
    """A provider. ``enabled`` None: on where it has a key, or its address is set; False: an administrator's off.

    ``origin``: ``shipped`` (seeding may rewrite it), ``touched`` (shipped, changed since) or ``own``.
    ``deleted_at`` keeps a deleted shipped row from coming back with the next seeding.
    ``shipped``: the operator's words from the catalogue file (``base_url``, ``api_key``, ``last_resort``), with
    ``${NAME}`` in them as written: filled in when the catalogue is loaded, never before, and out of every door's reach.
    """

    __tablename__ = "providers"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    uid: Mapped[str] = mapped_column(String(36), unique=True, default=new_id)
    kind: Mapped[str] = mapped_column(String(64))
    display_name: Mapped[str] = mapped_column(String(128), default="")
    description: Mapped[str] = mapped_column(Text, default="")
    enabled: Mapped[bool | None] = mapped_column(Boolean)
    connection: Mapped[dict[str, Any]] = mapped_column(JsonText, default=dict)
    shipped: Mapped[dict[str, Any]] = mapped_column(JsonText, default=dict)
    default_model: Mapped[str | None] = mapped_column(String(128))
    origin: Mapped[str] = mapped_column(String(16), default="own")
    position: Mapped[int] = mapped_column(Integer, default=1000)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now, onupdate=now)
    deleted_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    models: Mapped[list[ModelRow]] = relationship(
        back_populates="provider", cascade="all, delete-orphan", order_by="ModelRow.position, ModelRow.name"
    )
    keys: Mapped[list[ProviderKeyRow]] = relationship(
        back_populates="provider", cascade="all, delete-orphan", order_by="ProviderKeyRow.created_at"
    )


class ModelRow(Model):
    """A model of a provider.

    ``prices``: the document's price list (S2's shape, with our token buckets); None: priced by the price book. Where
    rows are loaded, it is the one in force (`PriceRow`).
    ``origin`` and ``deleted_at`` as with the provider. ``position``: first come those in the order of the file.
    """

    __tablename__ = "provider_models"
    __table_args__ = (UniqueConstraint("provider_id", "name"),)

    id: Mapped[str] = mapped_column(String(36), primary_key=True, default=new_id)
    provider_id: Mapped[str] = mapped_column(ForeignKey("providers.id", ondelete="CASCADE"), index=True)
    name: Mapped[str] = mapped_column(String(128))
    backend_model: Mapped[str] = mapped_column(String(128))
    display_name: Mapped[str] = mapped_column(String(128), default="")
    description: Mapped[str] = mapped_column(Text, default="")
    type: Mapped[str] = mapped_column(String(16), default="chat")
    tier: Mapped[str | None] = mapped_column(String(16))
    tier_head: Mapped[bool] = mapped_column(Boolean, default=False)
    aliases: Mapped[list[str]] = mapped_column(JsonText, default=list)
    context_window: Mapped[int | None] = mapped_column(Integer)
    max_tokens: Mapped[int | None] = mapped_column(Integer)
    abilities: Mapped[list[str]] = mapped_column(JsonText, default=list)
    prices: Mapped[list[dict[str, Any]] | None] = mapped_column(JsonText)
    params: Mapped[dict[str, str]] = mapped_column(JsonText, default=dict)
    timeout_s: Mapped[float | None] = mapped_column(Float)
    training_data: Mapped[str | None] = mapped_column(String(64))
    enabled: Mapped[bool] = mapped_column(Boolean, default=True)
    origin: Mapped[str] = mapped_column(String(16), default="own")
    position: Mapped[int] = mapped_column(Integer, default=1000)
    deleted_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    provider: Mapped[ProviderRow] = relationship(back_populates="models")


class PriceRow(Model):
    """A model's price list from ``valid_from`` until the next row's; written once, and kept when the model is gone.

    ``prices`` as with the model. ``version``: where its figures come from, as the ledger's rows name it.
    ``scheduled``: it was set for a moment ahead; others are in force since they were written.
    """

    __tablename__ = "model_prices"
    __table_args__ = (UniqueConstraint("provider_id", "model", "valid_from"),)

    id: Mapped[str] = mapped_column(String(36), primary_key=True, default=new_id)
    provider_id: Mapped[str] = mapped_column(String(64))
    model: Mapped[str] = mapped_column(String(128))
    valid_from: Mapped[datetime] = mapped_column(UtcDateTime)
    scheduled: Mapped[bool] = mapped_column(Boolean, default=False)
    prices: Mapped[list[dict[str, Any]] | None] = mapped_column(JsonText)
    version: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)


class ProviderKeyRow(Model):
    """A provider's key as `Vault` encrypted it; ``endpoint`` None serves every address."""

    __tablename__ = "provider_keys"

    id: Mapped[str] = mapped_column(String(36), primary_key=True, default=new_id)
    provider_id: Mapped[str] = mapped_column(ForeignKey("providers.id", ondelete="CASCADE"), index=True)
    ciphertext: Mapped[str] = mapped_column(Text)
    last4: Mapped[str] = mapped_column(String(4))
    endpoint: Mapped[str | None] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)

    provider: Mapped[ProviderRow] = relationship(back_populates="keys")


class KeyRestRow(Model):
    """A key that is put aside, a stored one or one from the environment, until a provider takes it again.

    ``hint``: the mask of the key that failed, so that another one in its place begins afresh. ``strikes``: pauses in
    a row. ``until``: the end of this pause. ``error``: the provider's words, masked.
    """

    __tablename__ = "key_rests"

    key_id: Mapped[str] = mapped_column(String(200), primary_key=True)
    provider_id: Mapped[str] = mapped_column(String(64), index=True)
    hint: Mapped[str] = mapped_column(String(16))
    strikes: Mapped[int] = mapped_column(Integer)
    until: Mapped[datetime] = mapped_column(UtcDateTime)
    failed_at: Mapped[datetime] = mapped_column(UtcDateTime)
    error: Mapped[str] = mapped_column(Text)


class CircuitRow(Model):
    """A breaker that is open, seen by every process; none stands for the closed ones.

    ``id`` is a digest of provider, endpoint, address and key, so that another address or key begins afresh.
    ``error``: what opened it, masked.
    """

    __tablename__ = "circuits"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    provider_id: Mapped[str] = mapped_column(String(64), index=True)
    opened_at: Mapped[datetime] = mapped_column(UtcDateTime)
    error: Mapped[str] = mapped_column(Text)


class RouteRow(Model):
    """A name for several models: ``targets`` in order, each ``{model, weight}``; ``fallbacks`` by what went wrong.

    ``origin`` and ``deleted_at`` as with a provider: an operator's file may bring routes too.
    """

    __tablename__ = "routes"

    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    strategy: Mapped[str] = mapped_column(String(16))
    targets: Mapped[list[dict[str, Any]]] = mapped_column(JsonText, default=list)
    fallbacks: Mapped[dict[str, list[str]]] = mapped_column(JsonText, default=dict)
    origin: Mapped[str] = mapped_column(String(16), default="own")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now, onupdate=now)
    deleted_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class Meta(Model):
    """Small shared facts: the catalogue's version, the known plaintext that proves the encryption key."""

    __tablename__ = "meta"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(Text)
