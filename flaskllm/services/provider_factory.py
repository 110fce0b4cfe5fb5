"""When an adapter is built, reused, thrown away. The only service that turns a kind into a class."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from flaskllm.adapters import kinds, load_adapter
from flaskllm.adapters.base import Field, ProviderAdapter, Transport
from flaskllm.domain.catalogue import Candidate, Provider


@dataclass(frozen=True, slots=True)
class KindDescription:
    """What an administrator has to know of a kind: enough to draw a form and to check it."""

    kind: str
    title: str
    connection: tuple[Field, ...]
    abilities: frozenset[str]
    key_required: bool
    default_base: str


class ProviderFactory:
    """One adapter and one pool of connections for each provider, shared by threads.

    ``verify``: check certificates (``HTTPX_CLIENT_VERIFY``). ``pool_size``: connections kept for the next call.
    ``admits``: which addresses may be dialled for a provider whose own an administrator entered; None: all.
    """

    def __init__(
        self,
        *,
        verify: bool = True,
        pool_size: int = 256,
        ca_file: str | None = None,
        proxy_for: Callable[[str, str], str | None] | None = None,
        admits: Callable[[str], bool] | None = None,
    ) -> None:
        self._admits = admits
        self._verify = verify
        self._pool_size = pool_size
        self._ca_file = ca_file
        self._proxy_for = proxy_for
        self._lock = threading.Lock()
        self._built: dict[str, tuple[Provider, ProviderAdapter]] = {}

    def adapter_for(self, candidate: Candidate) -> ProviderAdapter:
        """The live adapter of the candidate's provider; a new one where the provider has changed.

        Calls that are under way keep the old one. Raises `InvalidRequest` for a kind that nobody knows.
        """
        provider = candidate.provider
        held = self._built.get(provider.id)
        if held is not None and held[0] is provider:
            return held[1]
        with self._lock:
            return self._rebuilt(provider)

    def _rebuilt(self, provider: Provider) -> ProviderAdapter:
        held = self._built.get(provider.id)
        if held is not None and _speaks_alike(held[0], provider):
            self._built[provider.id] = (provider, held[1])
            return held[1]
        adapter = load_adapter(provider.kind)(provider, self._transport(provider))
        self._built[provider.id] = (provider, adapter)
        if held is not None:
            held[1].transport.close()
        return adapter

    def _transport(self, provider: Provider) -> Transport:
        return Transport(
            verify=self._verify,
            size=self._pool_size,
            ca_file=self._ca_file,
            proxy_for=self._proxy_for,
            admits=self._admits if provider.own_address else None,
            connect_s=provider.timeouts.connect_s,
            first_byte_s=provider.timeouts.first_byte_s,
        )

    @contextmanager
    def passing(self, provider: Provider) -> Iterator[ProviderAdapter]:
        """An adapter for a provider that is only being looked at, by the same rules; nothing of it is kept."""
        adapter = load_adapter(provider.kind)(provider, self._transport(provider))
        try:
            yield adapter
        finally:
            adapter.transport.close()

    def describe(self, kind: str) -> KindDescription:
        """What a kind asks for. Raises `InvalidRequest` for an unknown one."""
        adapter = load_adapter(kind)
        return KindDescription(
            kind=kind,
            title=adapter.TITLE or kind,
            connection=adapter.CONNECTION,
            abilities=adapter.ABILITIES,
            key_required=adapter.KEY_REQUIRED,
            default_base=adapter.DEFAULT_BASE,
        )

    def kinds(self) -> list[KindDescription]:
        """Every kind that can be loaded, ours first; one whose package is broken is left out."""
        found = []
        for kind in kinds():
            with contextlib.suppress(ImportError, AttributeError):
                found.append(self.describe(kind))
        return found

    def key_required(self, kind: str) -> bool:
        """Whether a provider of this kind can do nothing without a key."""
        return load_adapter(kind).KEY_REQUIRED

    def default_base(self, kind: str) -> str:
        """Where a kind's vendor has its service; empty where there is none."""
        return load_adapter(kind).DEFAULT_BASE

    def close(self) -> None:
        """Drop every kept connection, at the end of the process."""
        with self._lock:
            for _, adapter in self._built.values():
                adapter.transport.close()
            self._built.clear()


def _speaks_alike(one: Provider, other: Provider) -> bool:
    """Whether an adapter of the one serves the other: its models and texts are the candidate's business."""
    return _spoken(one) == _spoken(other)


def _spoken(provider: Provider) -> Provider:
    return replace(provider, models=(), display_name="", description="", default_model=None, switch="", rank=0)
