"""Every setting, once: name, aliases, type, default, help. Faults are collected and told together, by name.

The dataclass below *is* the table: `.env.example` is printed from it and `Settings.load` walks it. This is the only module
that reads the environment, so that whoever looks for what an operator can change finds all of it here.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from dotenv import dotenv_values

MASK = "••••"
FRESH_SECRETS = "`python run.py secrets` prints fresh ones"
SQLITE = "sqlite:///"
ENVIRONMENTS = ("development", "testing", "production")
USER_SCOPES = (
    "chat",
    "embeddings",
    "images",
    "batch",
    "webhook",
    "external",
)  # `admin` is given by hand, never by default
OTHER_DOORS = re.compile(
    r"api|llm|v1|openai|providers|audit|users|tokens|usage|admin|docs|openapi\.json|excel|chat|health|metrics|static"
)

# What the documentation of the five seeds, and every tutorial, prints in the place of a secret.
SAMPLES = re.compile(
    r"^(secret|dev|test|admin|password|token|none|null|key|api_token|test_token)$"
    r"|change[-_ ]?(me|this|it)|your[-_ ]|replace[-_ ]?(me|this|with)|example|placeholder|insecure|sample|dummy",
    re.IGNORECASE,
)


class Secret:
    """A value that never shows itself by accident: printing, formatting and logging give a mask, `reveal()` the value."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return f"Secret({MASK})"

    def __str__(self) -> str:
        return MASK

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash(self._value)


class SettingsError(Exception):
    """The start stops here: one line for each fault, naming the variable and what was expected, never a secret."""

    def __init__(self, faults: list[str], warnings: list[str] | None = None) -> None:
        self.faults = faults
        self.warnings = warnings or []
        super().__init__("\n".join(faults))

    def told(self) -> str:
        """What the operator reads: warnings first, the faults last, where the eye is."""
        return "\n".join([*(f"warning: {line}" for line in self.warnings), *self.faults])


# --- parsers: text in, value out; ValueError says what was expected -------------------------------------------------

Parser = Callable[[str], Any]


def text(value: str) -> str:
    return value


def boolean(value: str) -> bool:
    known = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    if value.lower() not in known:
        raise ValueError("true or false (also 1/0, yes/no, on/off)")
    return known[value.lower()]


def integer(low: int, high: int) -> Parser:
    def parse(value: str) -> int:
        # A pattern and not int(): that one also takes "1_000", " 5" and other scripts' digits.
        if not re.fullmatch(r"[0-9]{1,15}", value) or not low <= int(value) <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return int(value)

    return parse


def seconds(low: float, high: float) -> Parser:
    def parse(value: str) -> float:
        match = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)([smhd]?)", value)
        number = float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]] if match else -1.0
        if not low <= number <= high:
            raise ValueError(f"seconds from {low:g} to {high:g} (or with a unit: 30s, 15m, 12h, 30d)")
        return number

    return parse


def whole_seconds(low: int, high: int) -> Parser:
    parse = seconds(low, high)
    return lambda value: int(parse(value))


def money(value: str) -> Decimal:
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value):
        raise ValueError("an amount in US dollars, such as 10 or 0.50")
    return Decimal(value)


def money_or_none(value: str) -> Decimal | None:
    return None if value.lower() == "none" else money(value)


def choice(*allowed: str) -> Parser:
    def parse(value: str) -> str:
        for option in allowed:
            if value.lower() == option.lower():
                return option
        raise ValueError(f"one of {', '.join(allowed)}")

    return parse


def pattern(expression: str, expected: str) -> Parser:
    def parse(value: str) -> str:
        if not re.fullmatch(expression, value):
            raise ValueError(expected)
        return value

    return parse


def list_of(item: Parser) -> Parser:
    return lambda value: tuple(item(part.strip()) for part in value.split(",") if part.strip())


def secret(value: str) -> Secret:
    if not value.isprintable():
        raise ValueError("printable characters only")
    return Secret(value)


def web_address(value: str) -> str:
    """An http address that other paths can be put behind; credentials in it would end up in logs, so none are taken."""
    expected = "an address like https://host/path, without user, query or fragment"
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        raise ValueError(expected) from None
    if not usable or "@" in parts.netloc or parts.query or parts.fragment or re.search(r"[\s\x00-\x1f\\]", value):
        raise ValueError(expected)
    return value.rstrip("/")


def origin(value: str) -> str:
    if value == "*":
        return value
    address = web_address(value)
    if urlsplit(address).path:
        raise ValueError("* or origins like https://app.example.org, separated by commas")
    return address.lower()


def redis_address(value: str) -> str:
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        raise ValueError("an address like redis://:password@host:6379/0") from None
    if parts.scheme not in ("redis", "rediss", "unix") or not (parts.hostname or parts.scheme == "unix"):
        raise ValueError("an address like redis://:password@host:6379/0, rediss://… or unix:///path")
    return value


def database_address(value: str) -> str:
    """SQLAlchemy's form of what hosts hand out: `postgres://` is refused by it, and the driver here is psycopg 3."""
    expected = "sqlite:///file.db or postgresql://user:password@host/database"
    scheme, found, rest = value.partition("://")
    if not found:
        raise ValueError(expected)
    if scheme in ("postgres", "postgresql", "postgresql+psycopg2", "postgresql+psycopg"):
        return f"postgresql+psycopg://{rest}"
    if scheme != "sqlite":
        raise ValueError(expected)
    if not rest.startswith("/") or rest.startswith(("/:memory:", "/file:")) or rest == "/":
        raise ValueError(f"{expected}; a database in memory cannot be shared by threads and processes")
    return value


def host_name(value: str) -> str:
    if not re.fullmatch(
        r"(\*\.)?[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}(:[0-9]{1,5})?|\[?[0-9a-fA-F:.]{2,45}\]?(:[0-9]{1,5})?", value
    ):
        raise ValueError(
            "host names or addresses separated by commas, such as api.example.org, *.example.org, 10.0.0.7"
        )
    return value.lower()


def timezone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ValueError, OSError, KeyError):
        raise ValueError("a time zone such as UTC or Europe/Berlin") from None
    return value


def api_path(value: str) -> str:
    path = "/" + value.strip("/")
    steps = {".", ".."}.intersection(path.split("/"))  # clients and proxies take them out of what they send
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", path) or steps or OTHER_DOORS.fullmatch(path.split("/")[1]):
        raise ValueError("a path such as /llm-gate that no other door stands on")
    return path


# --- the table ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Var:
    """One variable, as the operator sees it."""

    name: str
    parse: Parser
    default: str | Mapping[str, str] | None
    help: str
    aliases: tuple[str, ...] = ()
    ranked: bool = False
    """Aliases in order of precedence instead of synonyms: they may differ, the first that is set wins."""
    secret: bool = False
    strong: tuple[str, ...] = ()
    """The environments in which a weak value stops the start; elsewhere it is a warning."""
    required: bool = False
    """Must be given in production; made once and kept in `instance/` elsewhere."""
    empty_counts: bool = False
    """Set but empty means something of its own."""
    section: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)

    def default_in(self, environment: str) -> str | None:
        return self.default.get(environment) if isinstance(self.default, Mapping) else self.default


def var(name: str, parse: Parser, default: str | Mapping[str, str] | None, help: str, **rest: Any) -> Any:
    return field(metadata={"var": Var(name, parse, default, help, **rest)})


def by_environment(production: str, elsewhere: str) -> Mapping[str, str]:
    return {"production": production, "development": elsewhere, "testing": elsewhere}


ALWAYS = ENVIRONMENTS
IN_PRODUCTION = ("production",)
SCOPE = choice(*USER_SCOPES)
MODEL_NAME = pattern(r"[^\s\x00-\x1f,]{1,200}", "a model's name")
SECRETS = {"secret": True, "strong": IN_PRODUCTION}


@dataclass(frozen=True)
class AzureRegion:
    """One of Azure's endpoints; the regions are one provider, asked in turn."""

    name: str
    endpoint: str
    key: Secret


@dataclass(frozen=True)
class ProviderEnv:
    """What the environment says of one provider."""

    provider: str
    on: bool
    needs: str
    """The variable to set where the provider is off."""
    key: Secret | None = None
    base_url: str | None = None
    model: str | None = None
    wire: str | None = None
    """The wire to speak where it is not the provider's own (`GEMINI_API_URL`: openai)."""
    regions: tuple[AzureRegion, ...] = ()
    api_version: str | None = None


@dataclass(frozen=True, kw_only=True, repr=False)
class Settings:
    """What this installation was told, checked and typed. `Settings.load()` makes one."""

    # fmt: off
    environment: str = var("ENVIRONMENT", choice(*ENVIRONMENTS), "development", "development, testing or production", aliases=("FLASK_ENV",), section="The process")
    debug: bool = var("DEBUG", boolean, "false", "debug log, and the reloader under `make run`; stops a production start")
    host: str = var("HOST", pattern(r"[A-Za-z0-9_.:\[\]-]{1,255}", "an address or host name to listen on"), "127.0.0.1", "where it listens; wins over HEIMDALL_SERVER_HOST, and this over LLM_GATEWAY_API_HOST", aliases=("HEIMDALL_SERVER_HOST", "LLM_GATEWAY_API_HOST"), ranked=True)
    port: int = var("PORT", integer(1, 65535), "5000", "the port; wins over HEIMDALL_SERVER_PORT, and this over LLM_GATEWAY_API_PORT", aliases=("HEIMDALL_SERVER_PORT", "LLM_GATEWAY_API_PORT"), ranked=True)
    web_concurrency: int | None = var("WEB_CONCURRENCY", integer(1, 256), None, "web processes; unset: 1 on SQLite, 2 otherwise")
    web_threads: int = var("WEB_THREADS", integer(1, 10_000), "256", "threads a web process may make; beyond them requests get a 503")
    workers: int = var("WORKERS", integer(0, 64), "1", "background workers started by `serve`; 0: none")
    instance_path: Path = var("INSTANCE_PATH", text, "instance", "folder of the database, made-up secrets and sockets")
    proxy_hops: int = var("PROXY_HOPS", integer(0, 10), "0", "how many proxies of yours stand before it and set X-Forwarded-*")
    max_body_bytes: int = var("MAX_BODY_BYTES", integer(1024, 2**31), "20971520", "largest request body, in bytes")
    log_level: str = var("LOG_LEVEL", choice("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"), "INFO", "DEBUG, INFO, WARNING, ERROR or CRITICAL")
    log_dir: str = var("LOG_DIR", text, "logs", "folder of app.log and error.log; set but empty: no log files", empty_counts=True)
    api_title: str = var("HEIMDALL_API_TITLE", text, "HEIMDALL", "title of the gate's documentation")
    api_description: str = var("HEIMDALL_API_DESCRIPTION", text, "Responsible for being the application integration with GenAI models", "description in the gate's documentation")
    api_path: str = var("HEIMDALL_API_PATH", api_path, "/llm-gate", "path before /v1 of the gate")

    secret_key: Secret = var("SECRET_KEY", secret, None, "signs the session cookies of /admin", required=True, section="Secrets: needed in production, `python run.py secrets` prints fresh ones; made and kept in instance/ elsewhere", **SECRETS)
    jwt_secret_keys: tuple[Secret, ...] = var("JWT_SECRET_KEY", list_of(secret), None, "signs access tokens; a list by commas: the first writes, all read", required=True, secret=True, strong=ALWAYS)
    encryption_keys: tuple[Secret, ...] = var("LLM_GATEWAY_ENCRYPTION_KEY", list_of(secret), None, "encrypts provider keys; a list by commas: the first writes, all read", required=True, **SECRETS)
    api_token: Secret | None = var("API_TOKEN", secret, None, "a token of the built-in service user with the scopes webhook and chat", **SECRETS)
    metrics_token: Secret | None = var("METRICS_TOKEN", secret, None, "token that may read /metrics", **SECRETS)
    webhook_secret: Secret | None = var("WEBHOOK_SECRET", secret, None, "signs callbacks as Standard Webhooks do; unset: a callback_url is refused", secret=True, strong=ALWAYS)
    alert_webhook_url: str | None = var("ALERT_WEBHOOK_URL", web_address, None, "where alerts of budgets are sent, signed with WEBHOOK_SECRET; unset: they stand in the log alone")

    database_url: str = var("DATABASE_URL", database_address, None, "sqlite:///file.db or postgresql://…; unset: app.db in the instance folder", aliases=("LLM_GATEWAY_DATABASE_URL",), section="Where things are kept")
    redis_url: str | None = var("REDIS_URL", redis_address, None, "switches the full mode on: limits, conversations and the queue's doorbell in Redis")
    sqlite_synchronous: str = var("SQLITE_SYNCHRONOUS", choice("NORMAL", "FULL", "EXTRA"), "NORMAL", "NORMAL survives crashes, a power cut may cost the last moments; FULL for anyone who bills")
    sqlite_journal_mode: str = var("SQLITE_JOURNAL_MODE", choice("WAL", "DELETE", "TRUNCATE", "PERSIST"), "WAL", "WAL needs a local disk; DELETE on network storage")
    conversation_ttl: int = var("CONVERSATION_TTL", whole_seconds(60, 3650 * 86400), "30d", "how long a conversation is kept after its last message")
    store_prompts: bool = var("STORE_PROMPTS", boolean, "false", "keep prompts and answers, encrypted, with the calls at /admin/requests")
    store_prompts_days: int = var("STORE_PROMPTS_DAYS", integer(1, 3650), "30", "how long they are kept")

    registration: str = var("REGISTRATION", choice("open", "approval", "closed"), by_environment("approval", "open"), "open, approval (an administrator lets the account spend) or closed", section="People, tokens and limits")
    default_user_budget: Decimal | None = var("DEFAULT_USER_BUDGET", money_or_none, "10", "US dollars a month for a new account; none: no bound")
    default_user_scopes: tuple[str, ...] = var("DEFAULT_USER_SCOPES", list_of(SCOPE), by_environment("chat,embeddings,images,batch,webhook", "chat,embeddings,images,batch,webhook,external"), "what a new account may do")
    jwt_access_token_expires: int = var("JWT_ACCESS_TOKEN_EXPIRES", whole_seconds(10, 86400), "900", "life of an access token")
    jwt_refresh_token_expires: int = var("JWT_REFRESH_TOKEN_EXPIRES", whole_seconds(60, 366 * 86400), "30d", "life of a refresh token")
    allow_query_token: bool = var("ALLOW_QUERY_TOKEN", boolean, "true", "take ?api_token= on /api/v1/*")
    allow_body_token: bool = var("ALLOW_BODY_TOKEN", boolean, "false", "take api_token in a text/plain JSON body, webhook paths only")
    chat_page: bool = var("CHAT_PAGE", boolean, "false", "offer the web chat for everybody with an account at /chat")
    allowed_origins: tuple[str, ...] = var("ALLOWED_ORIGINS", list_of(origin), "*", "origins whose pages may call, by commas, or *")
    rate_limit_enabled: bool = var("RATE_LIMIT_ENABLED", boolean, "true", "hold requests to the limits")
    rate_limit_per_minute: int = var("RATE_LIMIT_PER_MINUTE", integer(1, 1_000_000), "60", "requests a minute for a token or user without a limit of its own", aliases=("RATE_LIMIT",))
    budget_timezone: str = var("BUDGET_TIMEZONE", timezone, "UTC", "in which days, weeks and months of budgets begin")
    breaker_probe_seconds: float = var("BREAKER_PROBE_SECONDS", seconds(0.1, 600), "10", "between two calls by which a process tries what it leaves alone")
    breaker_failures: int = var("BREAKER_FAILURES", integer(0, 1000), "5", "failures in a row after which a provider's address and key are left alone; 0: never")
    unpriced_models: str = var("UNPRICED_MODELS", choice("allow", "refuse"), "allow", "what happens to a call whose model has no price")

    llm_provider: str | None = var("LLM_PROVIDER", pattern(r"[a-z0-9][a-z0-9_.-]{0,63}", "a provider's id, such as openai"), None, "provider of requests that name no model; unset: the first that is on", section="Models")
    catalogue_path: str | None = var("LLM_GATEWAY_CONFIG_PATH", text, None, "a models.yaml of your own, laid over the shipped catalogue")
    request_timeout: float = var("REQUEST_TIMEOUT", seconds(0.1, 600), "30", "deadline of an unstreamed call, all attempts together, and of a stream's first frame")
    max_prompt_length: int = var("MAX_PROMPT_LENGTH", integer(1, 10_000_000), "4000", "longest prompt of the webhook, in characters")
    httpx_client_verify: bool = var("HTTPX_CLIENT_VERIFY", boolean, "true", "check certificates of provider calls; false only for a test behind your own proxy")
    allow_private_providers: bool = var("ALLOW_PRIVATE_PROVIDERS", boolean, by_environment("false", "true"), "let administrators enter private addresses for providers")
    range_confirm_usd: Decimal = var("RANGE_CONFIRM_USD", money, "1", "estimate above which a spreadsheet range has to be confirmed")
    range_cache_days: int = var("RANGE_CACHE_DAYS", integer(0, 3650), "30", "how long answers to range rows are kept; 0: not at all")
    response_cache_ttl: int = var("RESPONSE_CACHE_TTL", whole_seconds(0, 3650 * 86400), "1h", "how long an answer serves those who ask for the cache; 0: no cache")
    response_cache_max_bytes: int = var("RESPONSE_CACHE_MAX_BYTES", integer(1024, 2**26), "4194304", "largest answer that the cache keeps, in bytes")
    response_cache_shared: bool = var("RESPONSE_CACHE_SHARED", boolean, "false", "let an answer from the cache serve everybody, not only who asked first")

    worker_concurrency: int = var("WORKER_CONCURRENCY", integer(1, 1000), "200", "batch items that one worker process asks at once; never more than WEB_THREADS less 8")
    batch_item_timeout: float = var("BATCH_ITEM_TIMEOUT", seconds(0.1, 3600), "300", "deadline of one batch item, all attempts together")
    batch_lease: float = var("BATCH_LEASE", seconds(0.5, 600), "15", "how long batch items stay with a worker that says nothing; renewed five times in that time")

    openai_api_key: Secret | None = var("OPENAI_API_KEY", secret, None, "switches openai on", secret=True, section="Providers: a key switches one on")
    openai_model: str = var("OPENAI_MODEL", MODEL_NAME, "gpt-4", "its default model")
    openai_base_url: str | None = var("OPENAI_BASE_URL", web_address, None, "its address, where it is not OpenAI's own")
    azure_openai_regions: tuple[AzureRegion, ...] = field(default=())
    azure_openai_model: str | None = var("AZURE_OPENAI_MODEL", MODEL_NAME, None, "default model of azure_openai, whose regions are AZURE_OPENAI_<REGION>_API_KEY and _ENDPOINT")
    azure_openai_api_version: str = var("AZURE_OPENAI_API_VERSION", pattern(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(-preview)?|preview|latest|v1|", "a version such as 2024-10-21"), "2024-10-21", "a version chooses the classic path; set but empty: the /openai/v1 path", empty_counts=True)
    anthropic_api_key: Secret | None = var("ANTHROPIC_API_KEY", secret, None, "switches anthropic on", secret=True)
    anthropic_model: str = var("ANTHROPIC_MODEL", MODEL_NAME, "claude-sonnet-5-5", "its default model")
    anthropic_base_url: str | None = var("ANTHROPIC_BASE_URL", web_address, None, "its address, where it is not Anthropic's own")
    gemini_api_key: Secret | None = var("GEMINI_API_KEY", secret, None, "switches gemini on", secret=True)
    gemini_model: str = var("GEMINI_MODEL", MODEL_NAME, "gemini-2.5-flash", "its default model")
    gemini_base_url: str | None = var("GEMINI_BASE_URL", web_address, None, "moves its native address")
    gemini_api_url: str | None = var("GEMINI_API_URL", web_address, None, "an OpenAI-compatible address of Gemini: gemini is then spoken to in that wire")
    grok_api_key: Secret | None = var("GROK_API_KEY", secret, None, "switches grok on", aliases=("XAI_API_KEY",), secret=True)
    grok_model: str = var("GROK_MODEL", MODEL_NAME, "grok-beta", "its default model")
    grok_base_url: str | None = var("GROK_BASE_URL", web_address, None, "its address, where it is not xAI's own", aliases=("XAI_BASE_URL",))
    ngrok_api_key: Secret | None = var("NGROK_API_KEY", secret, None, "key of ngrok; optional where NGROK_BASE_URL is set", secret=True)
    ngrok_model: str = var("NGROK_MODEL", MODEL_NAME, "gemini-2.5-flash", "its default model")
    ngrok_base_url: str = var("NGROK_BASE_URL", web_address, "http://localhost:8080", "its address; setting it switches ngrok on")
    llama_api_key: Secret | None = var("LLAMA_API_KEY", secret, None, "key of llama; optional", secret=True)
    llama_model: str | None = var("LLAMA_MODEL", MODEL_NAME, None, "its default model")
    llama_api_url: str | None = var("LLAMA_API_URL", web_address, None, "address of a server that speaks OpenAI's wire; setting it switches llama on")

    external_api_timeout: float = var("EXTERNAL_API_TIMEOUT", seconds(0.1, 600), "30", "longest time for a call of /api/external", section="Calls to the outside")
    external_api_max_retries: int = var("EXTERNAL_API_MAX_RETRIES", integer(0, 10), "2", "retries of idempotent calls, before any byte came")
    external_allowed_hosts: tuple[str, ...] = var("EXTERNAL_ALLOWED_HOSTS", list_of(host_name), None, "narrows /api/external and callbacks to these hosts, by commas")
    external_private_hosts: tuple[str, ...] = var("EXTERNAL_PRIVATE_HOSTS", list_of(host_name), None, "single private hosts that /api/external and callbacks may reach all the same")

    stream_ping_after: float = var("STREAM_PING_AFTER", seconds(0.05, 300), "10", "silence after which a stream is begun without a frame", section="Streams and shutdown: change only with a reason")
    stream_ping_every: float = var("STREAM_PING_EVERY", seconds(0.05, 300), "5", "silence after which a comment line is sent")
    stream_idle_timeout: float = var("STREAM_IDLE_TIMEOUT", seconds(0.1, 3600), "60", "longest silence of a provider within a stream")
    stream_max_seconds: float = var("STREAM_MAX_SECONDS", seconds(0.1, 86400), "300", "longest stream")
    drain_seconds: float = var("DRAIN_SECONDS", seconds(0, 600), "30", "how long an abandoned stream is read on, for its usage frame")
    lease_grace: float = var("LEASE_GRACE", seconds(0.1, 3600), "60", "time after a call's deadline when the reaper settles what a dead process left")
    graceful_timeout: int = var("GRACEFUL_TIMEOUT", whole_seconds(6, 600), "45", "how long a stopping web process lets its requests end")
    crash_points: str | None = var("CRASH_POINTS", text, None, "for tests of the gateway itself: a folder whose files name points at which a process kills itself; stops a production start")
    # fmt: on

    root: Path
    warnings: tuple[str, ...] = ()
    explicit: Mapping[str, str] = field(default_factory=dict)
    """Text of each variable that was set, by its chief name: for `variable()`; holds secrets, never print it."""

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None, root: Path | str | None = None) -> Settings:
        """Read `.env` and the environment; raise `SettingsError` with everything that is wrong in them."""
        return _Loader(os.environ if environ is None else environ, _root(root)).load()

    @property
    def is_production(self) -> bool:
        return self.environment == "production"

    @property
    def mode(self) -> str:
        return "full" if self.redis_url else "sql"

    @property
    def database_file(self) -> Path | None:
        """The SQLite file, or None on a server database."""
        scheme, _, path = self.database_url.partition("sqlite:///")
        return Path(path.partition("?")[0]) if not scheme and path else None

    @property
    def web_processes(self) -> int:
        return self.web_concurrency or (1 if self.database_file else 2)

    @property
    def log_path(self) -> Path | None:
        return self.root / self.log_dir if self.log_dir else None

    @cached_property
    def provider_env(self) -> Mapping[str, ProviderEnv]:
        """Each provider that the environment can configure, in the order in which the default is looked for."""
        return {provider.provider: provider for provider in _providers(self)}

    def variable(self, name: str) -> str | None:
        """What the operator set under this name or an alias of it (for `${NAME}` in a catalogue); None where unset."""
        return self.explicit.get(CHIEF_NAMES.get(name, name))

    def __repr__(self) -> str:
        return f"<Settings {self.environment}, {self.mode} mode, {shown_address(self.database_url)}>"


def _providers(settings: Settings) -> Iterator[ProviderEnv]:
    s = settings
    yield _keyed("openai", s.openai_api_key, s.openai_base_url, s.openai_model)
    yield ProviderEnv(
        "azure_openai",
        on=bool(s.azure_openai_regions),
        needs="AZURE_OPENAI_<REGION>_API_KEY",
        key=s.azure_openai_regions[0].key if s.azure_openai_regions else None,
        base_url=s.azure_openai_regions[0].endpoint if s.azure_openai_regions else None,
        model=s.azure_openai_model,
        regions=s.azure_openai_regions,
        api_version=s.azure_openai_api_version,
    )
    yield _keyed("anthropic", s.anthropic_api_key, s.anthropic_base_url, s.anthropic_model)
    wire = "openai" if s.gemini_api_url else None
    yield _keyed("gemini", s.gemini_api_key, s.gemini_api_url or s.gemini_base_url, s.gemini_model, wire)
    yield _keyed("grok", s.grok_api_key, s.grok_base_url, s.grok_model)
    ngrok_on = bool(s.ngrok_api_key) or "NGROK_BASE_URL" in s.explicit
    yield ProviderEnv("ngrok", ngrok_on, "NGROK_BASE_URL", s.ngrok_api_key, s.ngrok_base_url, s.ngrok_model)
    llama_on = bool(s.llama_api_url)
    yield ProviderEnv("llama", llama_on, "LLAMA_API_URL", s.llama_api_key, s.llama_api_url, s.llama_model)


def _keyed(provider: str, key: Secret | None, base_url: str | None, model: str, wire: str | None = None) -> ProviderEnv:
    return ProviderEnv(provider, bool(key), f"{provider.upper()}_API_KEY", key, base_url, model, wire)


ATTRIBUTES: dict[str, Var] = {f.name: f.metadata["var"] for f in fields(Settings) if "var" in f.metadata}
CHIEF_NAMES = {
    alias: variable.name for variable in ATTRIBUTES.values() if not variable.ranked for alias in variable.aliases
}
REGION = re.compile(r"AZURE_OPENAI_([A-Z0-9][A-Z0-9_]*)_(API_KEY|ENDPOINT)")


# --- loading --------------------------------------------------------------------------------------------------------


class _Refused(Exception):
    """One fault, or several of one variable; caught where they are collected."""


class _Loader:
    """One reading of the environment. Faults are gathered, so that an operator mends all of them in one go."""

    def __init__(self, environ: Mapping[str, str], root: Path) -> None:
        self.faults: list[str] = []
        self.warnings: list[str] = []
        self.root = root
        self.sources = (self._unmangled(environ), self._dotenv())
        self.explicit: dict[str, str] = {}
        self.environment = "development"
        self.instance = root / "instance"

    def load(self) -> Settings:
        self.environment = self._value("environment", ATTRIBUTES["environment"]) or "production"
        self.instance = self._instance_folder()
        values = {attribute: self._value(attribute, variable) for attribute, variable in ATTRIBUTES.items()}
        values |= {"instance_path": self.instance, "azure_openai_regions": self._regions()}
        self._check_together(values)
        if self.faults:
            raise SettingsError(list(dict.fromkeys(self.faults)), self.warnings)
        for name, value in self._plain():
            self.explicit.setdefault(name, value)
        return Settings(
            **values,
            root=self.root,
            warnings=tuple(dict.fromkeys(self.warnings)),
            explicit=_Unprinted(self.explicit),
        )

    def _unmangled(self, environ: Mapping[str, str]) -> Mapping[str, str]:
        """`flask` loads `.env` into the environment by itself, and interpolates: what came that way is taken as written."""
        path = self.root / ".env"
        try:
            mangled = (
                dotenv_values(path, encoding="utf-8") if "FLASK_RUN_FROM_CLI" in environ and path.is_file() else {}
            )
        except (OSError, UnicodeDecodeError):  # told by _dotenv
            return environ
        return {name: value for name, value in environ.items() if name not in mangled or mangled[name] != value}

    def _dotenv(self) -> Mapping[str, str]:
        """`.env` beside wsgi.py, without interpolation: a `$` in a password is a `$`."""
        path = self.root / ".env"
        if not path.is_file():
            return {}
        try:
            read = dotenv_values(path, interpolate=False, encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            self.faults.append(f".env: cannot be read ({type(error).__name__}); expected a text file in UTF-8")
            return {}
        return {name: value for name, value in read.items() if value is not None}

    def _plain(self) -> Iterator[tuple[str, str]]:
        for source in self.sources:
            yield from ((name, value.strip()) for name, value in source.items() if value.strip())

    def _raw(self, variable: Var) -> str | None:
        """The text an operator gave: the environment before `.env`; within one source synonyms have to agree."""
        if variable.ranked:
            found = (self._one(source, name) for name in variable.names for source in self.sources)
            return next((value for value in found if value), None)
        for source in self.sources:
            given = {name: self._one(source, name) for name in variable.names}
            given = {name: value for name, value in given.items() if value or (variable.empty_counts and value == "")}
            if len(set(given.values())) > 1:
                raise _Refused(
                    f"{' and '.join(given)} are two names of one setting and have different values; keep one"
                )
            if given:
                return next(iter(given.values()))
        return None

    @staticmethod
    def _one(source: Mapping[str, str], name: str) -> str | None:
        value = source.get(name)
        return None if value is None else value.strip()

    def _value(self, attribute: str, variable: Var) -> Any:
        try:
            raw = self._raw(variable)
            if raw is not None:
                self.explicit[variable.name] = raw
                value = _parsed(variable, raw)
                self._check_strength(variable, value)
                return self._placed(attribute, value)
            return self._absent(attribute, variable)
        except _Refused as fault:
            self.faults.append(str(fault))
            return None

    def _absent(self, attribute: str, variable: Var) -> Any:
        if variable.required:
            return self._kept_or_refused(attribute, variable)
        default = variable.default_in(self.environment)
        if default is not None:
            return self._placed(attribute, variable.parse(default))
        if attribute == "database_url":
            return f"{SQLITE}{self.instance / 'app.db'}"
        return () if attribute.startswith("external_") else None

    def _placed(self, attribute: str, value: Any) -> Any:
        """A relative SQLite file lies in the instance folder, whatever the working folder (S1's and S5's defaults)."""
        if attribute == "database_url" and value.startswith(SQLITE):
            return f"{SQLITE}{self.instance / value.removeprefix(SQLITE)}"
        return value

    def _kept_or_refused(self, attribute: str, variable: Var) -> Any:
        if self.environment == "production":
            raise _Refused(f"{variable.name}: missing; a production start needs one, {FRESH_SECRETS}")
        try:
            kept = keep_secret(self.instance / attribute)
        except OSError as error:
            raise _Refused(
                f"{variable.name}: none given, and none could be kept in {self.instance} ({error.strerror})"
            ) from None
        return variable.parse(kept)

    def _check_strength(self, variable: Var, value: Any) -> None:
        """Weak secrets stop the start where it matters, and are told aloud elsewhere (S3's own sample must still work)."""
        for item in value if isinstance(value, tuple) else (value,):
            fault = weakness(item.reveal()) if variable.strong and isinstance(item, Secret) else None
            if fault and self.environment in variable.strong:
                raise _Refused(f"{variable.name}: {fault}; expected at least 32 random characters, {FRESH_SECRETS}")
            if fault:
                self.warnings.append(f"{variable.name}: {fault}; a production start would be refused")
        if variable.secret and value == ():
            raise _Refused(f"{variable.name}: expected a key, or several separated by commas")
        if variable.name.endswith("_API_KEY") and SAMPLES.search(value.reveal()):
            self.warnings.append(f"{variable.name}: the documentation's placeholder; the provider will refuse it")

    def _instance_folder(self) -> Path:
        folder = self.root / (self._value("instance_path", ATTRIBUTES["instance_path"]) or "instance")
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            self.faults.append(f"INSTANCE_PATH: {folder} cannot be made ({error.strerror}); expected a folder of ours")
        return folder

    def _regions(self) -> tuple[AzureRegion, ...]:
        found: dict[str, dict[str, str]] = {}
        for name, value in self._plain():
            if match := REGION.fullmatch(name):
                found.setdefault(match[1], {}).setdefault(match[2], value)
        return tuple(region for name in sorted(found) if (region := self._region(name, found[name])))

    def _region(self, name: str, given: Mapping[str, str]) -> AzureRegion | None:
        prefix = f"AZURE_OPENAI_{name}"
        for part, other in (("API_KEY", "ENDPOINT"), ("ENDPOINT", "API_KEY")):
            if part not in given:
                self.faults.append(f"{prefix}_{part}: missing, though {prefix}_{other} is set; a region needs both")
                return None
        try:
            endpoint = web_address(given["ENDPOINT"])
            return AzureRegion(name.lower(), endpoint, secret(given["API_KEY"]))
        except ValueError as error:
            self.faults.append(f"{prefix}_*: expected {error}, got {shown_address(given['ENDPOINT'])}")
            return None

    def _check_together(self, values: Mapping[str, Any]) -> None:
        """What one variable alone cannot tell."""
        if values["debug"] and self.environment == "production":
            self.faults.append("DEBUG: true stops a production start; expected false")
        if values["crash_points"] and self.environment == "production":
            self.faults.append("CRASH_POINTS: stops a production start; expected nothing")
        if values["httpx_client_verify"] is False:
            self.warnings.append(
                "HTTPX_CLIENT_VERIFY is false: CERTIFICATES OF PROVIDERS ARE NOT CHECKED, anyone on the way can read"
                " keys and prompts; trust your own authority through SSL_CERT_FILE instead"
            )
        if self.sources[0].get("WEBHOOK_SECRET") == "" and not values["webhook_secret"]:
            self.warnings.append("WEBHOOK_SECRET is empty: it counts as unset, and a callback_url is refused")
        if values["alert_webhook_url"] and not values["webhook_secret"]:
            self.faults.append("WEBHOOK_SECRET: expected one beside ALERT_WEBHOOK_URL: alerts are signed with it")
        path = values["catalogue_path"]
        if path and not (self.root / path).is_file():
            self.faults.append(f"LLM_GATEWAY_CONFIG_PATH: expected a file, there is none at {self.root / path}")
        if "*" in (values["allowed_origins"] or ()) and len(values["allowed_origins"]) > 1:
            self.faults.append("ALLOWED_ORIGINS: expected * alone, or origins without it")


class _Unprinted(dict[str, str]):
    """A mapping that holds secrets and does not show them."""

    def __repr__(self) -> str:
        return f"<{len(self)} variables>"


def _root(root: Path | str | None) -> Path:
    if root is not None:
        return Path(root).resolve()
    beside = Path(__file__).resolve().parent.parent
    return beside if (beside / "wsgi.py").exists() else Path.cwd()


def _parsed(variable: Var, raw: str) -> Any:
    try:
        return variable.parse(raw)
    except ValueError as error:
        got = "" if variable.secret else f", got {_shown(variable, raw)}"
        raise _Refused(f"{variable.name}: expected {error}{got}") from None


def _shown(variable: Var, raw: str) -> str:
    if variable.secret:
        return MASK
    return shown_address(raw) if "://" in raw or "@" in raw or variable.name.endswith("_URL") else repr(raw[:80])


def shown_address(address: str) -> str:
    """An address fit to be printed: no password, no query; where the two cannot be told apart, only the scheme."""
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]{0,30})://", address)
    if not match:
        return "something that is no address"
    rest = address[match.end() :]
    where = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in rest[len(where) :]:
        return f"{match[0]}{MASK}"
    user, _, host = where.rpartition("@")
    path = re.split(r"[?#]", rest[len(where) :], maxsplit=1)[0]
    shown_user = f"{user.partition(':')[0]}:{MASK}@" if ":" in user else f"{user}@" if user else ""
    return f"{match[0]}{shown_user}{host}{path}"


# --- secrets --------------------------------------------------------------------------------------------------------


def weakness(value: str) -> str | None:
    """Why this would not do as a secret; None where it would."""
    if SAMPLES.search(value):
        return "a sample from a documentation"
    if value.startswith("whsec_"):
        return _weak_webhook_secret(value)
    if len(value.encode()) < 32:
        return "too short"
    runs = sum(abs(ord(a) - ord(b)) <= 1 for a, b in pairwise(value))
    if len(set(value)) < 10 or value in (value + value)[1:-1] or runs > len(value) // 2:
        return "too regular"
    return None


def _weak_webhook_secret(value: str) -> str | None:
    try:
        key = base64.b64decode(value.removeprefix("whsec_"), validate=True)
    except binascii.Error:
        return "whsec_ is not followed by base64"
    return None if len(key) >= 24 and len(set(key)) >= 8 else "too short"


def keep_secret(path: Path) -> str:
    """The secret kept in this file, made on first use; two processes that start at once end up with the same one."""
    if not path.exists():
        fresh = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(base64.urlsafe_b64encode(secrets.token_bytes(32)).decode())
        try:
            _put_in_place(fresh, path)
        finally:
            fresh.unlink(missing_ok=True)
    return path.read_text(encoding="ascii").strip()


def _put_in_place(fresh: Path, path: Path) -> None:
    """Give the finished file its name unless somebody was first; a hard link cannot be seen half written."""
    try:
        os.link(fresh, path)
    except FileExistsError:
        return
    except OSError:  # a file system without hard links: the last one wins, so wait before reading
        if not path.exists():
            fresh.replace(path)
            time.sleep(0.2)


# --- .env.example and the check by hand -----------------------------------------------------------------------------


def example() -> str:
    """`.env.example`: variables with a default are commented out, so that a copy of it changes nothing."""
    lines = [
        "# Every setting of FlaskLLM. Copy to .env beside wsgi.py and fill in what you need; the real environment wins,",
        "# an empty value counts as unset. Printed by `python run.py env-example` from flaskllm/config.py.",
    ]
    for attribute, variable in ATTRIBUTES.items():
        if variable.section:
            lines += ["", f"# --- {variable.section}"]
        if attribute == "azure_openai_model":
            lines += _example_regions()
        lines += _example_lines(variable)
    return "\n".join(lines) + "\n"


def _example_lines(variable: Var) -> list[str]:
    also = f" (or {', '.join(variable.aliases)})" if variable.aliases and not variable.ranked else ""
    default = variable.default_in("development")
    if isinstance(variable.default, Mapping):
        also += f" [in production: {variable.default_in('production')}]"
    quoted = f'"{default}"' if default and " " in default else default
    lines = [f"# {variable.help}{also}", f"{variable.name}=" if default is None else f"# {variable.name}={quoted}"]
    return lines + [f"# {alias}=" for alias in variable.aliases if variable.ranked]


def _example_regions() -> list[str]:
    names = [f"AZURE_OPENAI_{region}_{part}=" for region in ("WEST_US", "EAST_US") for part in ("API_KEY", "ENDPOINT")]
    return ["# Azure OpenAI: key and endpoint of a region; any other region's name may stand in that place", *names]


def _check(root: str | None) -> int:
    """What a start would say: faults and warnings on standard error, and what was read, with secrets masked."""
    settings = Settings.load(root=root)
    for line in settings.warnings:
        print(f"warning: {line}", file=sys.stderr)
    for variable in ATTRIBUTES.values():
        if variable.name in settings.explicit:
            print(f"{variable.name} = {_shown(variable, settings.explicit[variable.name])}", file=sys.stderr)
    return 0


def _facts(root: str | None) -> int:
    """What run.py needs to know and, without the libraries, cannot find out; no secrets in it."""
    settings = Settings.load(root=root)
    names = ("environment", "mode", "host", "port", "debug", "graceful_timeout", "workers")
    print(json.dumps({name: getattr(settings, name) for name in names}))
    return 0


def _print_example(_: str | None) -> int:
    sys.stdout.buffer.write(example().encode())
    return 0


def main(arguments: list[str]) -> int:
    ways = {"--example": _print_example, "--check": _check, "--facts": _facts}
    try:
        if len(arguments) in (1, 2) and arguments[0] in ways:
            return ways[arguments[0]](arguments[1] if arguments[1:] else None)
    except SettingsError as error:
        print(error.told(), file=sys.stderr)
        return 2
    print(f"usage: python -m flaskllm.config {' | '.join(ways)} [FOLDER OF .env]", file=sys.stderr)
    return 64


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
