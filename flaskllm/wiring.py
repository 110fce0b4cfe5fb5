"""The composition root: from settings to services. The only module that knows every concrete class."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from flask import Flask
from sqlalchemy import Engine
from werkzeug.middleware.proxy_fix import ProxyFix

from flaskllm.adapters.answers import frames_of
from flaskllm.config import Secret, Settings
from flaskllm.domain.pricing import from_dollars
from flaskllm.domain.principal import Principal
from flaskllm.extensions import db
from flaskllm.net.egress import PublicSession
from flaskllm.repositories.answers import AnswerStore
from flaskllm.repositories.committer import Connection, GroupCommitter
from flaskllm.repositories.conversations import ConversationStore, RedisConversations, SqlConversations
from flaskllm.repositories.database import STATEMENT_MS, Database, set_sqlite_pragmas, tidy_log
from flaskllm.repositories.ledger import sweep_counters
from flaskllm.repositories.postgresql import CONNECT_S, PATIENCE_S, bound_waiting
from flaskllm.repositories.postgresql import STATEMENT_MS as SERVER_STATEMENT_MS
from flaskllm.repositories.responses import ResponseStore
from flaskllm.repositories.writes import write
from flaskllm.security import ChainKeys, JwtCodec, Passwords, Vault, WebhookSigner, setup_code
from flaskllm.services import Services, crash
from flaskllm.services.accounts import AccountService
from flaskllm.services.asking_order import AskingOrder
from flaskllm.services.audit import AuditTrail
from flaskllm.services.batch_desk import BatchDesk
from flaskllm.services.batch_embeddings import EmbeddingsRunner
from flaskllm.services.batch_worker import BatchWorker, ChatRunner, Runner
from flaskllm.services.batches import BatchService
from flaskllm.services.bodies import BodyService, Sealer
from flaskllm.services.catalogue import CatalogueCache, Seeder
from flaskllm.services.catalogue_change import CatalogueDesk
from flaskllm.services.chat_orchestrator import ChatOrchestrator
from flaskllm.services.chat_stream import Drains, StreamTimes
from flaskllm.services.circuit_board import CircuitBoard
from flaskllm.services.conversations import ConversationService
from flaskllm.services.external_calls import ExternalCallService
from flaskllm.services.file_batches import FileBatchService
from flaskllm.services.files import FileService
from flaskllm.services.first_run import FirstRun
from flaskllm.services.health import HealthService
from flaskllm.services.housekeeper import Chore, Housekeeper
from flaskllm.services.idempotency import Idempotency
from flaskllm.services.images import ImageInliner
from flaskllm.services.key_ring import KeyRing
from flaskllm.services.ledger import Ledger
from flaskllm.services.limits import Counters, Limits, RedisCounters, SqlCounters
from flaskllm.services.metrics import Metrics
from flaskllm.services.model_router import ModelRouter
from flaskllm.services.outbox import SECONDS, Outbox
from flaskllm.services.overview import OverviewService
from flaskllm.services.pace import Pace
from flaskllm.services.prompts import PromptService
from flaskllm.services.provider_check import ProviderCheck
from flaskllm.services.provider_connection import AddressRule
from flaskllm.services.provider_factory import ProviderFactory
from flaskllm.services.provider_keys import KeyService
from flaskllm.services.provider_models import ModelService
from flaskllm.services.provider_probe import ProviderProbe
from flaskllm.services.providers import ProviderService
from flaskllm.services.quotas import QuotaService
from flaskllm.services.range_rows import DAY_S, RowCache, RowRunner
from flaskllm.services.ranges import RangeRules, RangeService
from flaskllm.services.reconciliation import ReconciliationService
from flaskllm.services.requests import CallLog
from flaskllm.services.response_cache import ResponseCache
from flaskllm.services.responses import ResponseService
from flaskllm.services.rollups import Rollups
from flaskllm.services.route_order import RouteOrder
from flaskllm.services.routes import RouteService
from flaskllm.services.shutdown import MARGIN_S, Shutdown
from flaskllm.services.templates import TemplateService
from flaskllm.services.tokens import TokenService
from flaskllm.services.troubles import TroubleService
from flaskllm.services.usage import UsageService
from flaskllm.services.workers import WorkerWatch
from flaskllm.version import VERSION
from flaskllm.wire.embeddings import read_embeddings, write_embeddings
from flaskllm.wire.file_batches import DOOR as FILES_DOOR
from flaskllm.wire.file_batches import write_line

if TYPE_CHECKING:
    from flaskllm.services.demo_data import Clock, DemoData

KEPT_FREE = 8
"""Threads that no call to a model may take: health and administration answer while all else is full."""
KEPT_FOR_OTHERS = 16
"""Threads that streams may not take: health, administration and plain calls need one when all else is slow."""
DRAINS_END_S = 3.0
"""For what is still read on when a process ends: it is cut and settled by estimate, which takes a moment."""
SENT_IN_A_REQUEST_S = 3.0
"""For a receiver of an event where there are no threads: some caller's request waits for it."""
SENDING_ENDS_S = 1.0
"""For events that are being sent when a process ends: what takes longer is sent again by another."""
REDIS_SECONDS = 0.25
"""What a request pays at the most for a Redis that hangs (``docs/promises.md``)."""


def flask_config(settings: Settings) -> dict[str, Any]:
    """What Flask, its extensions and the views read."""
    return {
        "SECRET_KEY": settings.secret_key.reveal(),
        "MAX_CONTENT_LENGTH": settings.max_body_bytes,
        "SQLALCHEMY_DATABASE_URI": settings.database_url,
        "SQLALCHEMY_ENGINE_OPTIONS": _engine_options(settings),
        "TESTING": settings.environment == "testing",
        "ENVIRONMENT": settings.environment,
        "GATE_PATH": settings.api_path,
        "GATE_TITLE": settings.api_title,
        "GATE_DESCRIPTION": settings.api_description,
        "SEND_FILE_MAX_AGE_DEFAULT": 86_400,  # seconds; our pages name a file with the version behind it
        "REQUEST_TIMEOUT": settings.request_timeout,
        "MAX_PROMPT_LENGTH": settings.max_prompt_length,
        "ALLOW_QUERY_TOKEN": settings.allow_query_token,
        "ALLOW_BODY_TOKEN": settings.allow_body_token,
        "METRICS_TOKEN": settings.metrics_token,
        "CHAT_PAGE": settings.chat_page,
    }


def _engine_options(settings: Settings) -> dict[str, Any]:
    """A pool that gives up rather than waits, and statements that end (``docs/promises.md``)."""
    if settings.database_url.startswith("sqlite"):
        return {"connect_args": {"timeout": STATEMENT_MS / 1000}}
    # What the kernel still has to send to a server that is cut off is given up too (libpq, in milliseconds).
    options = f"-c statement_timeout={SERVER_STATEMENT_MS} -c lock_timeout={SERVER_STATEMENT_MS} -c timezone=UTC"
    return {
        "pool_size": 10,
        "max_overflow": 10,
        "pool_timeout": PATIENCE_S,
        "pool_pre_ping": True,
        "connect_args": {"connect_timeout": CONNECT_S, "options": options, "tcp_user_timeout": STATEMENT_MS * 2},
    }


def behind_proxies(wsgi_app: Any, settings: Settings) -> Any:
    """The caller's address as the operator's own proxies tell it; without any, nobody's word is taken."""
    hops = settings.proxy_hops
    return ProxyFix(wsgi_app, x_for=hops, x_proto=hops, x_host=hops) if hops else wsgi_app


def threads_work() -> bool:
    """False in uWSGI without ``--enable-threads``, where a started thread never runs (PythonAnywhere)."""
    try:
        import uwsgi
    except ImportError:
        return True
    return bool(uwsgi.opt.get("enable-threads") or uwsgi.opt.get("threads"))


def wire(app: Flask, settings: Settings, *, make_factory: Callable[..., ProviderFactory] = ProviderFactory) -> Services:
    """Build the services of one application and put them where `extensions.services` finds them."""
    with app.app_context():
        engine = db.engine
    if engine.dialect.name == "sqlite":
        set_sqlite_pragmas(engine, journal_mode=settings.sqlite_journal_mode, synchronous=settings.sqlite_synchronous)
    elif engine.dialect.name == "postgresql":
        bound_waiting(engine)
    crash.arm(settings.root / settings.crash_points if settings.crash_points else None)
    services = _Wiring(settings, engine, make_factory).services()
    app.extensions["flaskllm"] = services
    app.extensions["flaskllm_shutdown"] = services.shutdown
    app.extensions["flaskllm_settings"] = settings
    return services


class _Wiring:
    """Each part once; what two of them share is an attribute."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        make_factory: Callable[..., ProviderFactory],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``clock``: the audit trail's, in seconds since 1970."""
        self.settings = settings
        self.make_factory = make_factory
        self.threads = threads_work()
        self.database = Database(engine)
        self.answers = AnswerStore(self.database)
        self.committer = GroupCommitter(engine, _write, threads=self.threads)
        self.shutdown = Shutdown(grace_s=settings.graceful_timeout)
        self.redis = _redis(settings.redis_url)
        self.limits = Limits(self._counters(), per_minute=self._per_minute())
        self.metrics = Metrics(version=VERSION)
        self.vault = Vault(_revealed(settings.encryption_keys))
        self.sealer = Sealer(self.vault)
        self.usage = UsageService(
            self.database,
            self.metrics,
            zone=ZoneInfo(settings.budget_timezone),
            sealer=self.sealer if settings.store_prompts else None,
        )
        self.rollups = Rollups(self.database, zone=ZoneInfo(settings.budget_timezone))
        self.audit = AuditTrail(self.database, ChainKeys(_revealed(settings.encryption_keys)), clock=clock)
        self.drains = Drains(threads=self.threads, seconds=settings.drain_seconds)
        self.ledger = Ledger(self.committer.run, zone=ZoneInfo(settings.budget_timezone), lease_s=settings.lease_grace)
        self.outbox = self._outbox()

    def _counters(self) -> Counters:
        in_sql = SqlCounters(self.committer.run)
        return RedisCounters(self.redis, in_sql) if self.redis is not None else in_sql

    def _per_minute(self) -> int | None:
        return self.settings.rate_limit_per_minute if self.settings.rate_limit_enabled else None

    def services(self) -> Services:
        settings = self.settings
        addresses = AddressRule(allow_private=settings.allow_private_providers)
        factory = self.make_factory(
            verify=settings.httpx_client_verify,
            pool_size=settings.web_threads,
            proxy_for=_proxy_for,
            admits=addresses.admits,
        )
        vault = self.vault
        catalogue = CatalogueCache(
            self.database,
            vault,
            settings.provider_env,
            variable=settings.variable,
            key_required=factory.key_required,
            default_base=factory.default_base,
        )
        ring = KeyRing(self.database, catalogue)
        board = CircuitBoard(
            self.database,
            catalogue,
            ring,
            in_a_row=settings.breaker_failures,
            probe_every_s=settings.breaker_probe_seconds,
        )
        self.metrics.watch_breakers(board.state)
        quotas = QuotaService(
            self.database, self.audit, catalogue=catalogue.current, zone=ZoneInfo(settings.budget_timezone)
        )
        pace = Pace()
        router = ModelRouter(
            catalogue.current,
            default_provider=settings.llm_provider,
            rests=board.rests,
            order=RouteOrder(pace, board.rests),
        )
        desk = CatalogueDesk(self.database, catalogue, self.audit)
        provider_keys = KeyService(desk, vault)
        chat = self._orchestrator(router, factory, board, pace, quotas)
        conversations = self._conversations()
        responses = ResponseService(ResponseStore(self.database), chat)
        accounts = self._accounts()
        templates = TemplateService(self.database, self.audit)
        idempotency = Idempotency(self.answers, threads=self.threads)
        tokens = self._tokens()
        batches = BatchService(
            self.database, self.committer.run, router, ring=self._doorbell(), check_callback=self.outbox.check
        )
        files = FileService(self.database)
        file_batches = FileBatchService(self.database, batches, files, door=FILES_DOOR, line=write_line)
        prompts = PromptService(chat, templates)
        rows = RowCache(self.answers, router, kept_s=settings.range_cache_days * DAY_S)
        runners: dict[str, Runner] = {
            "chat": ChatRunner(chat),
            "embeddings": EmbeddingsRunner(chat, read=read_embeddings, write=write_embeddings),
            "range": RowRunner(self.database, prompts, rows, seconds=settings.request_timeout),
        }
        batch_worker = self._batch_worker(runners, tokens, accounts, quotas)
        ranges = RangeService(self.database, batches, batch_worker, prompts, rows, router, self._range_rules())
        bodies = BodyService(
            self.database, self.sealer, self.audit, is_on=settings.store_prompts, days=settings.store_prompts_days
        )
        chores = [
            *self._chores(conversations, responses, accounts),
            *_chores_of(idempotency, batches, settings.batch_lease),
            Chore("files of batches", 1.0, file_batches.deliver_all),
            Chore("files", 300.0, files.sweep),
            Chore("ranges", 300.0, ranges.sweep),
            Chore("told alerts", 3600.0, quotas.sweep),
            Chore("bodies", 300.0, bodies.sweep),
        ]
        housekeeper = Housekeeper(chores, threads=self.threads)
        self._put_away_at_the_end(housekeeper)
        workers = WorkerWatch(self.database)
        provider_check = ProviderCheck(
            router, factory, catalogue=catalogue.current, ledger=self.ledger, usage=self.usage, watch=board
        )
        return Services(
            accounts=accounts,
            tokens=tokens,
            first_run=FirstRun(accounts, code=setup_code(settings.secret_key.reveal()), throttle=self.limits.hit),
            catalogue=catalogue,
            router=router,
            factory=factory,
            providers=ProviderService(desk, factory, provider_keys, addresses, breakers=board.state),
            provider_models=ModelService(desk),
            provider_keys=provider_keys,
            routes=RouteService(desk),
            asking_order=AskingOrder(router, board, pace, catalogue=catalogue.current),
            provider_check=provider_check,
            provider_probe=ProviderProbe(factory, provider_check, addresses, vault),
            chat=chat,
            responses=responses,
            conversations=ConversationService(conversations, chat, window=chat.window, providers=chat.providers),
            prompts=prompts,
            batches=batches,
            batch_desk=BatchDesk(self.database, batches, file_batches, self.audit),
            batch_worker=batch_worker,
            files=files,
            file_batches=file_batches,
            ranges=ranges,
            idempotency=idempotency,
            templates=templates,
            usage=self.usage,
            rollups=self.rollups,
            requests=CallLog(self.database),
            bodies=bodies,
            overview=OverviewService(self.database, zone=ZoneInfo(settings.budget_timezone)),
            reconciliation=ReconciliationService(self.database),
            audit=self.audit,
            limits=self.limits,
            ledger=self.ledger,
            metrics=self.metrics,
            quotas=quotas,
            external_calls=self._external_calls(),
            outbox=self.outbox,
            workers=workers,
            troubles=TroubleService(
                self.database,
                catalogue=catalogue.current,
                board=board,
                keys=ring,
                workers=workers,
                quotas=quotas,
                zone=ZoneInfo(settings.budget_timezone),
                mode=settings.mode,
                redis=self.redis,
                folder=settings.root / settings.instance_path,
                refuses_unpriced=settings.unpriced_models == "refuse",
            ),
            health=HealthService(
                self.database,
                redis=self.redis,
                mode=settings.mode,
                shutdown=self.shutdown,
                worker=lambda: workers.look().state,
                breakers=board.state,
            ),
            housekeeper=housekeeper,
            shutdown=self.shutdown,
        )

    def _put_away_at_the_end(self, housekeeper: Housekeeper) -> None:
        """In this order: what still settles, what waits to be settled, and then who writes it."""
        self.shutdown.at_the_end(housekeeper.stop)
        self.shutdown.at_the_end(self.outbox.stop)
        self.shutdown.at_the_end(lambda: self.drains.wait(DRAINS_END_S))
        self.shutdown.at_the_end(self.ledger.retry_late)
        self.shutdown.at_the_end(self.committer.stop)
        self.shutdown.at_the_end(lambda: self.outbox.wait(SENDING_ENDS_S))

    def _orchestrator(
        self, router: ModelRouter, factory: ProviderFactory, board: CircuitBoard, pace: Pace, quotas: QuotaService
    ) -> ChatOrchestrator:
        settings = self.settings
        times = StreamTimes(
            ping_after=settings.stream_ping_after,
            ping_every=settings.stream_ping_every,
            idle=settings.stream_idle_timeout,
            most=settings.stream_max_seconds,
        )
        return ChatOrchestrator(
            router=router,
            factory=factory,
            ledger=self.ledger,
            limits=self.limits,
            usage=self.usage,
            images=ImageInliner(PublicSession((), settings.external_private_hosts, threads=self.threads)),
            shutdown=self.shutdown,
            times=times,
            drains=self.drains,
            most_streams=max(1, settings.web_threads - KEPT_FOR_OTHERS) if self.threads else None,
            refuse_unpriced=settings.unpriced_models == "refuse",
            watch=board,
            most_calls=max(1, settings.web_threads - KEPT_FREE) if self.threads else None,
            pace=pace,
            model_limits=quotas.of_model,
            cache=self._response_cache(),
        )

    def _response_cache(self) -> ResponseCache:
        settings = self.settings
        return ResponseCache(
            self.answers,
            frames=frames_of,
            kept_s=settings.response_cache_ttl,
            shared=settings.response_cache_shared,
            largest=settings.response_cache_max_bytes,
        )

    def _outbox(self) -> Outbox:
        """The operator's own address may be private; a caller's may be so by ``EXTERNAL_PRIVATE_HOSTS`` alone."""
        url, secret = self.settings.alert_webhook_url, self.settings.webhook_secret
        own = (_place_of(url),) if url else ()
        return Outbox(
            self.database,
            operators=PublicSession(own, own, threads=self.threads),
            callers=self._public_session(),
            signer=WebhookSigner(secret.reveal()) if secret else None,
            alert_url=url,
            threads=self.threads,
            seconds=SECONDS if self.threads else SENT_IN_A_REQUEST_S,
        )

    def _public_session(self) -> PublicSession:
        """Where callers may have us call."""
        settings = self.settings
        return PublicSession(settings.external_allowed_hosts, settings.external_private_hosts, threads=self.threads)

    def _doorbell(self) -> Callable[[str], None]:
        """Who works on batches looks by himself every second; where there is Redis he is woken."""
        if self.settings.redis_url is None:
            return lambda _job_id: None
        from flaskllm.jobs.queue import RqDoorbell

        return RqDoorbell(self.settings.redis_url).ring

    def _range_rules(self) -> RangeRules:
        """Half of the threads may wait for ranges, and a sixteenth have rows in hand, eight threads more each."""
        settings = self.settings
        return RangeRules(
            unasked=from_dollars(settings.range_confirm_usd),
            longest=settings.max_prompt_length,
            row_seconds=settings.request_timeout,
            at_once=max(1, settings.web_threads // 2),
            turns=max(1, settings.web_threads // 16),
            threads=self.threads,
            refuse_unpriced=settings.unpriced_models == "refuse",
        )

    def _batch_worker(
        self, runners: Mapping[str, Runner], tokens: TokenService, accounts: AccountService, quotas: QuotaService
    ) -> BatchWorker:
        settings = self.settings

        def principal_of(user_id: str, token_id: str | None) -> Principal:
            found = tokens.principal_of(token_id) if token_id else accounts.principal_of(user_id)
            return quotas.applied(found)

        return BatchWorker(
            self.committer.run,
            runners,
            principal_of=principal_of,
            shutdown=self.shutdown,
            places=min(settings.worker_concurrency, max(1, settings.web_threads - KEPT_FREE)),
            item_seconds=settings.batch_item_timeout,
            grace_s=max(1.0, settings.graceful_timeout - MARGIN_S),
            lease_s=settings.batch_lease,
        )

    def _external_calls(self) -> ExternalCallService:
        """Half of the threads at the most, for a caller decides how long one is held."""
        settings = self.settings
        return ExternalCallService(
            self._public_session(),
            self.limits,
            seconds=settings.external_api_timeout,
            max_retries=settings.external_api_max_retries,
            most_calls=max(1, settings.web_threads // 2) if self.threads else None,
        )

    def demo_data(self, clock: Clock) -> DemoData:
        """Makes demo data; its services write their trail by that clock, which is this wiring's too."""
        from flaskllm.services.demo_data import DemoData

        return DemoData(self.database, self.services(), self._conversations(), clock=clock)

    def _conversations(self) -> ConversationStore:
        if self.redis is not None:
            return RedisConversations(self.redis, ttl_s=self.settings.conversation_ttl)
        return SqlConversations(self.database, ttl_s=self.settings.conversation_ttl)

    def _accounts(self) -> AccountService:
        settings = self.settings
        return AccountService(
            self.database,
            audit=self.audit,
            passwords=Passwords(),
            jwt=JwtCodec(_revealed(settings.jwt_secret_keys)),
            throttle=self.limits.hit,
            registration=settings.registration,
            default_scopes=settings.default_user_scopes,
            default_budget=settings.default_user_budget,
            access_seconds=settings.jwt_access_token_expires,
            refresh_seconds=settings.jwt_refresh_token_expires,
        )

    def _tokens(self) -> TokenService:
        token = self.settings.api_token
        return TokenService(self.database, audit=self.audit, environment_token=token.reveal() if token else None)

    def _chores(
        self, conversations: ConversationStore, responses: ResponseService, accounts: AccountService
    ) -> list[Chore]:
        return [
            Chore("late settlements", 1.0, self.ledger.retry_late),
            Chore("reaper", 10.0, self.ledger.reap),
            Chore("roll-ups", 5.0, self.rollups.catch_up),
            Chore("outbox", 2.0, self.outbox.deliver),
            Chore("told events", 3600.0, self.outbox.sweep),
            Chore("counters", 60.0, lambda: sweep_counters(self.database)),
            Chore("write-ahead log", 60.0, lambda: tidy_log(self.database)),
            Chore("conversations", 300.0, conversations.sweep),
            Chore("responses", 300.0, responses.sweep),
            Chore("sessions", 300.0, accounts.sweep),
        ]


def _write(connection: Connection, operations: Sequence[Any]) -> None:
    write(connection, operations)
    crash.point(crash.BEFORE_COMMIT)


def _chores_of(idempotency: Idempotency, batches: BatchService, lease_s: float) -> list[Chore]:
    return [
        Chore("batch reaper", min(5.0, lease_s / 2), batches.reap),
        Chore("batches", 300.0, batches.sweep),
        Chore("idempotency leases", 10.0, idempotency.renew),
        Chore("idempotent answers", 60.0, idempotency.sweep),
    ]


def _place_of(url: str) -> str:
    """Host and port, as lists of hosts have them."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"


def _revealed(secrets: tuple[Secret, ...]) -> list[str]:
    return [secret.reveal() for secret in secrets]


def _redis(url: str | None) -> Any:
    """A client whose every command ends soon: a Redis that hangs must not hang us."""
    if url is None:
        return None
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return redis.Redis.from_url(
        url,
        socket_timeout=REDIS_SECONDS,
        socket_connect_timeout=REDIS_SECONDS,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
    )


def _proxy_for(scheme: str, host: str) -> str | None:
    """The system's proxy for calls to providers (PythonAnywhere's free accounts have no other way out)."""
    if host in ("localhost", "127.0.0.1", "::1") or urllib.request.proxy_bypass(host):
        return None
    return urllib.request.getproxies().get(scheme)


def prepare_database(app: Flask) -> None:
    """Migrate and seed: what ``flask db upgrade`` and ``flask seed`` do."""
    from flask_migrate import upgrade

    with app.app_context():
        upgrade()
        seeder(app).run()
        db.session.remove()


def seeder(app: Flask) -> Seeder:
    """Brings the shipped catalogue, and the operator's own over it, into the database."""
    settings: Settings = app.extensions["flaskllm_settings"]
    overlay = settings.root / settings.catalogue_path if settings.catalogue_path else None
    with app.app_context():
        return Seeder(Database(db.engine), variable=settings.variable, overlay=overlay)


def demo_data(app: Flask) -> DemoData:
    """Makes a month of plausible traffic, by services of its own."""
    from flaskllm.services.demo_data import Clock  # no server ever needs it

    clock = Clock(datetime.now(UTC))
    with app.app_context():
        return _Wiring(app.extensions["flaskllm_settings"], db.engine, ProviderFactory, clock=clock).demo_data(clock)


def database_is_current(app: Flask) -> bool:
    """Whether the database is at the newest migration."""
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    with app.app_context():
        script = ScriptDirectory.from_config(app.extensions["migrate"].migrate.get_config())
        with db.engine.connect() as connection:
            found = MigrationContext.configure(connection).get_current_heads()
    return set(found) == set(script.get_heads())
