"""Providers, models and keys: every query, and the version by which other processes see a change. Nothing commits."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Integer, String, and_, cast, delete, or_, select, text, update
from sqlalchemy.orm import Session, selectinload

from flaskllm.models.catalogue import CircuitRow, KeyRestRow, Meta, ModelRow, ProviderKeyRow, ProviderRow
from flaskllm.models.types import now
from flaskllm.repositories.prices import bring_prices

__all__ = [
    "CircuitRow",
    "KeyRestRow",
    "ModelRow",
    "ProviderKeyRow",
    "ProviderRow",
    "add_key",
    "add_model",
    "add_provider",
    "all_keys",
    "bump_version",
    "drop_rest",
    "drop_rests_of",
    "get_key",
    "get_model",
    "get_provider",
    "key_context",
    "load_providers",
    "load_rests",
    "lock_catalogue",
    "names_elsewhere",
    "prefixes",
    "put_aside",
    "read_version",
    "swap_ciphertext",
]

VERSION = "catalogue_version"
OPEN_META = "INSERT INTO meta (name, value) VALUES (:name, '0') ON CONFLICT (name) DO NOTHING"


def key_context(provider_id: str) -> str:
    """What `Vault` binds a provider's key to, so that a row copied to another provider does not decrypt."""
    return f"provider_keys.ciphertext:{provider_id}"


# -- the version ------------------------------------------------------------------------------------------------------


def read_version(session: Session) -> int:
    """The catalogue's version; 0 before the first change."""
    value = session.scalar(select(Meta.value).where(Meta.name == VERSION))
    return int(value or 0)


def bump_version(session: Session) -> None:
    """Tell every process that the catalogue has changed; belongs into the transaction of the change."""
    session.execute(text(OPEN_META), {"name": VERSION})
    raised = cast(cast(Meta.value, Integer) + 1, String)
    session.execute(update(Meta).where(Meta.name == VERSION).values(value=raised))


def lock_catalogue(session: Session) -> None:
    """Begin by writing, so that two processes that change the catalogue at once come one after the other.

    PostgreSQL locks the row, SQLite the file; reading first would make SQLite refuse the later write at once.
    """
    session.execute(text(OPEN_META), {"name": VERSION})
    session.execute(update(Meta).where(Meta.name == VERSION).values(value=Meta.value))


# -- reading ----------------------------------------------------------------------------------------------------------


def load_providers(
    session: Session, *, deleted: bool = False, after: str | None = None, limit: int | None = None
) -> Sequence[ProviderRow]:
    """Every provider with its models, the prices in force and its keys, in four queries; deleted rows too where asked
    for. ``after``: an id, behind which the next ``limit`` of them stand; none where there is no such provider."""
    query = (
        select(ProviderRow)
        .options(selectinload(ProviderRow.models), selectinload(ProviderRow.keys))
        .order_by(ProviderRow.position, ProviderRow.id)
        .limit(limit)
    )
    if not deleted:
        query = query.where(ProviderRow.deleted_at.is_(None))
    if after is not None:
        seen = select(ProviderRow.position).where(ProviderRow.id == after).scalar_subquery()
        behind = and_(ProviderRow.position == seen, ProviderRow.id > after)
        query = query.where(or_(ProviderRow.position > seen, behind))
    rows = session.scalars(query).all()
    bring_prices(session, [model for row in rows for model in row.models], now())
    return rows


def get_provider(session: Session, provider_id: str, *, deleted: bool = False) -> ProviderRow | None:
    """One provider, its models with the prices in force; a deleted one only where asked for."""
    row = session.get(ProviderRow, provider_id)
    if row is None or (row.deleted_at and not deleted):
        return None
    bring_prices(session, row.models, now(), row.id)
    return row


def get_model(session: Session, provider_id: str, name: str, *, deleted: bool = False) -> ModelRow | None:
    """One model of a provider by its name, with the prices in force."""
    query = select(ModelRow).where(ModelRow.provider_id == provider_id, ModelRow.name == name)
    row = session.scalars(query).one_or_none()
    if row is None or (row.deleted_at and not deleted):
        return None
    bring_prices(session, [row], now(), provider_id)
    return row


def names_elsewhere(session: Session, provider_id: str, names: Sequence[str]) -> dict[str, str]:
    """Which of these names other providers' models bear, each with one that does (``provider/name``)."""
    query = (
        select(ModelRow.name, ModelRow.provider_id)
        .join(ProviderRow)
        .where(ModelRow.name.in_(names), ModelRow.provider_id != provider_id)
        .where(ModelRow.deleted_at.is_(None), ProviderRow.deleted_at.is_(None))
    )
    return {name: f"{owner}/{name}" for name, owner in session.execute(query)}


def prefixes(session: Session) -> set[str]:
    """What stands before the first slash in the names and aliases of models."""
    query = select(ModelRow.name, ModelRow.aliases).where(ModelRow.deleted_at.is_(None))
    names = [name for row in session.execute(query) for name in (row.name, *(row.aliases or ()))]
    return {name.partition("/")[0] for name in names if "/" in name}


def get_key(session: Session, provider_id: str, key_id: str) -> ProviderKeyRow | None:
    """One key, only as its own provider's."""
    row = session.get(ProviderKeyRow, key_id)
    return row if row is not None and row.provider_id == provider_id else None


def all_keys(session: Session) -> Sequence[ProviderKeyRow]:
    """Every key, for encrypting anew."""
    return session.scalars(select(ProviderKeyRow).order_by(ProviderKeyRow.id)).all()


# -- writing ----------------------------------------------------------------------------------------------------------


def add_provider(session: Session, row: ProviderRow) -> ProviderRow:
    session.add(row)
    session.flush()
    return row


def add_model(session: Session, row: ModelRow) -> ModelRow:
    session.add(row)
    session.flush()
    return row


def add_key(session: Session, row: ProviderKeyRow) -> ProviderKeyRow:
    session.add(row)
    session.flush()
    return row


def swap_ciphertext(session: Session, key_id: str, old: str, new: str) -> bool:
    """Write a key encrypted anew; False where somebody replaced or removed it meanwhile."""
    statement = update(ProviderKeyRow).where(ProviderKeyRow.id == key_id, ProviderKeyRow.ciphertext == old)
    return bool(session.execute(statement.values(ciphertext=new)).rowcount)  # type: ignore[attr-defined]


# -- keys put aside ---------------------------------------------------------------------------------------------------


def load_rests(session: Session) -> Sequence[KeyRestRow]:
    return session.scalars(select(KeyRestRow)).all()


def put_aside(session: Session, row: KeyRestRow) -> None:
    """Write a pause, in the place of the key's last one."""
    session.merge(row)


def drop_rest(session: Session, key_id: str) -> bool:
    """The key works again, or is gone; False where it was not aside."""
    found = session.execute(delete(KeyRestRow).where(KeyRestRow.key_id == key_id))
    return bool(found.rowcount)  # type: ignore[attr-defined]


def drop_rests_of(session: Session, provider_id: str) -> None:
    """Of a provider that is gone, or whose keys are: what was known of how they fared."""
    session.execute(delete(KeyRestRow).where(KeyRestRow.provider_id == provider_id))
    session.execute(delete(CircuitRow).where(CircuitRow.provider_id == provider_id))


# -- breakers ---------------------------------------------------------------------------------------------------------


def load_circuits(session: Session) -> Sequence[CircuitRow]:
    return session.scalars(select(CircuitRow)).all()


def open_circuit(session: Session, row: CircuitRow, *, stale: datetime) -> bool:
    """Write an open breaker; False where it is open already. Its provider's that opened before ``stale`` are dropped:
    they may be of addresses and keys that are no more, and open again where they are not."""
    session.execute(delete(CircuitRow).where(CircuitRow.provider_id == row.provider_id, CircuitRow.opened_at < stale))
    if session.get(CircuitRow, row.id) is not None:
        return False
    session.add(row)
    session.flush()
    return True


def close_circuit(session: Session, circuit_id: str) -> bool:
    """Drop an open breaker; False where it was closed already."""
    found = session.execute(delete(CircuitRow).where(CircuitRow.id == circuit_id))
    return bool(found.rowcount)  # type: ignore[attr-defined]
