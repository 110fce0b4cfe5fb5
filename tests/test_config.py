"""Settings are read once, typed, and complain by name, all at once, without showing a secret."""

import json
import os
import re
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import pytest

from flaskllm.config import ATTRIBUTES, Secret, Settings, SettingsError, example, keep_secret, shown_address, weakness

HERE = Path(__file__).parent
ROOT = HERE.parent
CORPUS = json.loads((HERE / "corpus" / "config.json").read_text(encoding="utf-8"))
KEY = "q8Zt3vN1xW7yB5mK9cR2fH6jL4pD0sGaUeTi"
OTHER_KEY = "Ht5Qw2Xz8Lk1Vb6Nm3Rf9Yd4Sg7Jp0CuEoAi"
PRODUCTION = {
    "ENVIRONMENT": "production",
    "SECRET_KEY": KEY,
    "JWT_SECRET_KEY": KEY[::-1],
    "LLM_GATEWAY_ENCRYPTION_KEY": OTHER_KEY,
}


@pytest.fixture
def load(tmp_path):
    """Settings of an installation in a folder of its own."""

    def load(environ=None, dotenv="", **more):
        if dotenv:
            (tmp_path / ".env").write_text(dotenv, encoding="utf-8")
        return Settings.load({**(environ or {}), **more}, root=tmp_path)

    return load


@pytest.fixture
def faults(load):
    """What a start with these variables is stopped by."""

    def faults(environ=None, **more):
        with pytest.raises(SettingsError) as stopped:
            load(environ, **more)
        return str(stopped.value)

    return faults


def start(folder, environ):
    """A real process start, with nothing but these variables."""
    clean = {name: os.environ[name] for name in ("PATH", "HOME", "SYSTEMROOT") if name in os.environ}
    return subprocess.run(
        [sys.executable, "-m", "flaskllm.config", "--check", str(folder)],
        cwd=ROOT,
        env={**clean, **environ},
        capture_output=True,
        text=True,
        check=False,
    )


# --- the corpus


EXPECTED = {
    "CONFIG-002": (2, "JWT_SECRET_KEY"),
    "CONFIG-003": (0, "warning: API_TOKEN"),  # S3's printed example has to work; production refuses it, below
    "CONFIG-007": (2, "RATE_LIMIT_PER_MINUTE"),
    "CONFIG-008": (0, "DATABASE_URL"),
    "CONFIG-009": (2, "warning: HTTPX_CLIENT_VERIFY"),
    "CONFIG-011": (0, "warning: WEBHOOK_SECRET"),
}


@pytest.mark.parametrize("case", CORPUS, ids=lambda case: case["id"])
def test_corpus_case_is_told_by_name_and_keeps_its_secret(case, tmp_path):
    environ = case["input"].get("env", {"WEBHOOK_SECRET": ""})
    code, told = EXPECTED[case["id"]]
    started = start(tmp_path, environ)
    assert started.returncode == code
    assert told in started.stderr
    assert not any(secret in started.stderr for secret in ("SECRET@", "your_secure", '"secret"', "'secret'"))


def test_every_corpus_case_is_expected():
    assert {case["id"] for case in CORPUS} == set(EXPECTED)


# --- sources


def test_dotenv_is_read_and_the_environment_wins(load):
    settings = load({"PORT": "6001"}, dotenv="PORT=6000\nHOST=0.0.0.0\n")
    assert (settings.port, settings.host) == (6001, "0.0.0.0")


def test_dollar_signs_in_dotenv_survive(load):
    settings = load(dotenv=f"API_TOKEN='$a${{HOME}}{KEY}'\n")
    assert settings.api_token.reveal() == f"$a${{HOME}}{KEY}"


def test_dollar_signs_survive_flask_loading_dotenv_too(load):
    """`flask` puts an interpolated copy of .env into the environment before anybody asks us."""
    settings = load({"FLASK_RUN_FROM_CLI": "true", "API_TOKEN": f"x{KEY}"}, dotenv=f"API_TOKEN=x${{NOT_SET}}{KEY}\n")
    assert settings.api_token.reveal() == f"x${{NOT_SET}}{KEY}"


def test_a_dotenv_of_notepad_is_read(tmp_path):
    (tmp_path / ".env").write_bytes(b"\xef\xbb\xbfPORT=6000\r\n")
    assert Settings.load({}, root=tmp_path).port == 6000


def test_a_dotenv_that_is_no_text_is_a_fault(tmp_path):
    (tmp_path / ".env").write_bytes(b"PORT=\xff\xfe\n")
    with pytest.raises(SettingsError, match=r"^\.env: cannot be read"):
        Settings.load({}, root=tmp_path)


def test_an_empty_value_counts_as_unset(load):
    settings = load({"PORT": "", "OPENAI_API_KEY": "  "})
    assert settings.port == 5000
    assert settings.openai_api_key is None


def test_an_empty_value_does_not_hide_dotenv(load):
    assert load({"PORT": ""}, dotenv="PORT=6000\n").port == 6000


def test_the_working_folder_does_not_matter(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    settings = Settings.load({"DATABASE_URL": "sqlite:///./llm_gateway.db"}, root=tmp_path)
    assert settings.database_file == tmp_path / "instance" / "llm_gateway.db"


# --- aliases


@pytest.mark.parametrize(
    "alias,value,attribute,expected",
    [
        ("FLASK_ENV", "testing", "environment", "testing"),
        ("RATE_LIMIT", "7", "rate_limit_per_minute", 7),
        ("XAI_API_KEY", "k", "grok_api_key", Secret("k")),
        ("XAI_BASE_URL", "https://x.example/", "grok_base_url", "https://x.example"),
        ("LLM_GATEWAY_DATABASE_URL", "postgres://u@h/d", "database_url", "postgresql+psycopg://u@h/d"),
    ],
)
def test_an_alias_works_like_the_name(load, alias, value, attribute, expected):
    assert getattr(load({alias: value}), attribute) == expected


def test_two_aliases_with_different_values_stop_the_start_by_name(faults):
    told = faults(RATE_LIMIT="5", RATE_LIMIT_PER_MINUTE="6")
    assert (
        told == "RATE_LIMIT_PER_MINUTE and RATE_LIMIT are two names of one setting and have different values; keep one"
    )


def test_two_aliases_with_the_same_value_are_fine(load):
    assert load(RATE_LIMIT="5", RATE_LIMIT_PER_MINUTE="5").rate_limit_per_minute == 5


def test_disagreeing_secrets_are_not_shown(faults):
    told = faults(GROK_API_KEY="one-canary", XAI_API_KEY="two-canary")
    assert "GROK_API_KEY and XAI_API_KEY" in told
    assert "canary" not in told


@pytest.mark.parametrize(
    "environ,port",
    [
        ({"LLM_GATEWAY_API_PORT": "8000"}, 8000),
        ({"LLM_GATEWAY_API_PORT": "8000", "HEIMDALL_SERVER_PORT": "8080"}, 8080),
        ({"LLM_GATEWAY_API_PORT": "8000", "HEIMDALL_SERVER_PORT": "8080", "PORT": "5001"}, 5001),
    ],
)
def test_port_wins_over_heimdall_and_that_over_llm_gateway(load, environ, port):
    assert load(environ).port == port


def test_a_catalogue_may_ask_for_any_variable_by_any_of_its_names(load):
    settings = load(XAI_API_KEY="k", MY_SERVER="https://mine.example")
    assert settings.variable("GROK_API_KEY") == settings.variable("XAI_API_KEY") == "k"
    assert settings.variable("MY_SERVER") == "https://mine.example"
    assert settings.variable("NGROK_BASE_URL") is None


# --- parsing


@pytest.mark.parametrize("name", ["RATE_LIMIT_PER_MINUTE", "PORT", "WEB_THREADS", "MAX_BODY_BYTES"])
@pytest.mark.parametrize("value", ["-1", "0", "1e3", "1_000", "٣", "five", "9" * 20, "+5", "5.0"])
def test_a_number_is_strict(faults, name, value):
    assert re.fullmatch(rf"{name}: expected a whole number from \d+ to \d+, got '.*'", faults({name: value}))


@pytest.mark.parametrize(
    "value,meant", [("True", True), ("1", True), ("yes", True), ("ON", True), ("False", False), ("off", False)]
)
def test_a_boolean_in_any_case(load, value, meant):
    assert load(RATE_LIMIT_ENABLED=value).rate_limit_enabled is meant


@pytest.mark.parametrize(
    "name,value",
    [
        ("RATE_LIMIT_ENABLED", "maybe"),
        ("ENVIRONMENT", "prod"),
        ("LOG_LEVEL", "LOUD"),
        ("REGISTRATION", "sometimes"),
        ("UNPRICED_MODELS", "ask"),
        ("OPENAI_BASE_URL", "api.openai.example"),
        ("OPENAI_BASE_URL", "https://user:pw@host/v1"),
        ("LLAMA_API_URL", "http://host:99999"),
        ("REDIS_URL", "http://host"),
        ("DATABASE_URL", "mysql://h/d"),
        ("DATABASE_URL", "sqlite://"),
        ("DATABASE_URL", "sqlite:///:memory:"),
        ("ALLOWED_ORIGINS", "https://a.example/path"),
        ("ALLOWED_ORIGINS", "*,https://a.example"),
        ("DEFAULT_USER_SCOPES", "chat,root"),
        ("DEFAULT_USER_BUDGET", "-5"),
        ("RANGE_CONFIRM_USD", "NaN"),
        ("BUDGET_TIMEZONE", "Mars/Olympus"),
        ("BUDGET_TIMEZONE", "../../etc/passwd"),
        ("HEIMDALL_API_PATH", "/v1"),
        ("HEIMDALL_API_PATH", "/"),
        ("HEIMDALL_API_PATH", "/openai/gate"),
        ("HEIMDALL_API_PATH", "/openapi.json"),
        ("HEIMDALL_API_PATH", "/gate/../v1"),
        ("HEIMDALL_API_PATH", "/./gate"),
        ("HEIMDALL_API_PATH", "/gate/{id}"),
        ("LLM_GATEWAY_CONFIG_PATH", "missing.yaml"),
        ("JWT_SECRET_KEY", ","),
        ("REQUEST_TIMEOUT", "601"),
        ("EXTERNAL_ALLOWED_HOSTS", "http://a.example"),
        ("LLM_PROVIDER", "no such"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_by_name(faults, name, value):
    assert faults({name: value}).startswith(f"{name}: expected")


def test_all_faults_are_told_at_once(faults):
    told = faults(PORT="x", LOG_LEVEL="LOUD", DATABASE_URL="nonsense", JWT_SECRET_KEY="secret").splitlines()
    assert [line.partition(":")[0] for line in told] == ["PORT", "LOG_LEVEL", "JWT_SECRET_KEY", "DATABASE_URL"]


@pytest.mark.parametrize("value,read", [("900", 900), ("15m", 900), ("12h", 43200)])
def test_a_duration_may_have_a_unit(load, value, read):
    assert load(JWT_ACCESS_TOKEN_EXPIRES=value).jwt_access_token_expires == read


def test_lists_are_split_by_commas(load):
    settings = load(
        ALLOWED_ORIGINS="https://A.example/, http://b.example:8080", EXTERNAL_PRIVATE_HOSTS="10.0.0.7, wiki"
    )
    assert settings.allowed_origins == ("https://a.example", "http://b.example:8080")
    assert settings.external_private_hosts == ("10.0.0.7", "wiki")


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2", "postgresql+psycopg"])
def test_every_spelling_of_postgresql_means_our_driver(load, scheme):
    assert (
        load(DATABASE_URL=f"{scheme}://u:p@h/d?sslmode=require").database_url
        == "postgresql+psycopg://u:p@h/d?sslmode=require"
    )


def test_log_dir_empty_switches_the_files_off(load, tmp_path):
    assert load().log_path == tmp_path / "logs"
    assert load(LOG_DIR="").log_path is None


# --- defaults


def test_the_defaults_of_the_seeds_hold(load, tmp_path):
    settings = load()
    assert (settings.environment, settings.host, settings.port, settings.mode) == (
        "development",
        "127.0.0.1",
        5000,
        "sql",
    )
    assert settings.database_url == f"sqlite:///{tmp_path}/instance/app.db"
    assert (settings.rate_limit_per_minute, settings.request_timeout, settings.max_prompt_length) == (60, 30, 4000)
    assert (settings.openai_model, settings.gemini_model, settings.grok_model) == (
        "gpt-4",
        "gemini-2.5-flash",
        "grok-beta",
    )
    assert (settings.ngrok_model, settings.ngrok_base_url) == ("gemini-2.5-flash", "http://localhost:8080")
    assert (settings.api_title, settings.api_path, settings.range_confirm_usd) == ("HEIMDALL", "/llm-gate", Decimal(1))


def test_production_is_narrower_than_development(load):
    settings = load(PRODUCTION)
    assert (settings.registration, settings.allow_private_providers) == ("approval", False)
    assert "external" not in settings.default_user_scopes
    assert "external" in load().default_user_scopes


def test_processes_follow_the_database(load):
    assert load().web_processes == 1
    assert load(DATABASE_URL="postgresql://h/d").web_processes == 2
    assert load(WEB_CONCURRENCY="4").web_processes == 4


def test_redis_switches_the_full_mode_on(load):
    assert load(REDIS_URL="redis://localhost:6379/0").mode == "full"


# --- providers


def test_a_key_switches_a_provider_on(load):
    providers = load(ANTHROPIC_API_KEY="k").provider_env
    assert [name for name, provider in providers.items() if provider.on] == ["anthropic"]
    assert list(providers) == ["openai", "azure_openai", "anthropic", "gemini", "grok", "ngrok", "llama"]


@pytest.mark.parametrize(
    "variable,provider", [("NGROK_BASE_URL", "ngrok"), ("LLAMA_API_URL", "llama"), ("NGROK_API_KEY", "ngrok")]
)
def test_ngrok_and_llama_are_on_by_their_address(load, variable, provider):
    assert load({variable: "http://localhost:8080"}).provider_env[provider].on


def test_gemini_api_url_means_the_other_wire(load):
    gemini = load(GEMINI_API_KEY="k", GEMINI_API_URL="https://g.example/v1beta/openai/").provider_env["gemini"]
    assert (gemini.wire, gemini.base_url) == ("openai", "https://g.example/v1beta/openai")


def test_azure_has_any_regions(load):
    azure = load(
        AZURE_OPENAI_WEST_US_API_KEY="a",
        AZURE_OPENAI_WEST_US_ENDPOINT="https://w.example",
        AZURE_OPENAI_SWEDEN_CENTRAL_API_KEY="b",
        AZURE_OPENAI_SWEDEN_CENTRAL_ENDPOINT="https://s.example/",
    ).provider_env["azure_openai"]
    assert [(region.name, region.endpoint) for region in azure.regions] == [
        ("sweden_central", "https://s.example"),
        ("west_us", "https://w.example"),
    ]


def test_half_a_region_is_a_fault(faults):
    told = faults(AZURE_OPENAI_EAST_US_API_KEY="canary")
    assert (
        told
        == "AZURE_OPENAI_EAST_US_ENDPOINT: missing, though AZURE_OPENAI_EAST_US_API_KEY is set; a region needs both"
    )


def test_an_empty_azure_version_chooses_the_other_path(load):
    assert load().azure_openai_api_version == "2024-10-21"
    assert load(AZURE_OPENAI_API_VERSION="").provider_env["azure_openai"].api_version == ""


# --- secrets


def test_a_secret_shows_itself_only_on_purpose():
    hidden = Secret("canary")
    assert "canary" not in f"{hidden} {hidden!r} {hidden!s:>20} {[hidden]} {json.dumps(str(hidden))}"
    assert hidden.reveal() == "canary"


def test_printing_settings_shows_no_secret(load):
    settings = load({**PRODUCTION, "DATABASE_URL": "postgresql://u:canary@h/d", "OPENAI_API_KEY": "canary"})
    shown = f"{settings!r} {settings} {settings.explicit!r} {settings.provider_env!r}"
    assert not any(secret in shown for secret in ("canary", KEY, OTHER_KEY))


@pytest.mark.parametrize("name", ["SECRET_KEY", "JWT_SECRET_KEY", "LLM_GATEWAY_ENCRYPTION_KEY"])
def test_a_missing_secret_stops_production(faults, name):
    told = faults({key: value for key, value in PRODUCTION.items() if key != name})
    assert told == f"{name}: missing; a production start needs one, `python run.py secrets` prints fresh ones"


@pytest.mark.parametrize(
    "name",
    ["SECRET_KEY", "JWT_SECRET_KEY", "LLM_GATEWAY_ENCRYPTION_KEY", "API_TOKEN", "METRICS_TOKEN", "WEBHOOK_SECRET"],
)
@pytest.mark.parametrize(
    "value",
    [
        "your_secure_random_token",
        "secret",
        "dev",
        "short-canary",
        "your-secret-key" + KEY,
        "changeme" * 5,
        "a" * 64,
        "ab" * 32,
        "0123456789abcdefghijklmnopqrstuvwxyz",
    ],
)
def test_a_weak_secret_stops_production_without_being_shown(faults, name, value):
    told = faults({**PRODUCTION, name: value})
    assert told.startswith(f"{name}: ")
    assert "`python run.py secrets` prints fresh ones" in told
    assert value not in told.replace("secrets", "").replace("SECRET", "") or value == "secret"


def test_every_key_of_a_list_is_looked_at(faults):
    assert faults({**PRODUCTION, "JWT_SECRET_KEY": f"{KEY},short"}).startswith("JWT_SECRET_KEY: too short")


def test_a_list_of_keys_is_read_in_order(load):
    keys = load({**PRODUCTION, "LLM_GATEWAY_ENCRYPTION_KEY": f"{KEY}, {OTHER_KEY}"}).encryption_keys
    assert [key.reveal() for key in keys] == [KEY, OTHER_KEY]


def test_the_sample_token_is_a_warning_in_development(load):
    settings = load(API_TOKEN="your_secure_random_token")
    assert settings.api_token.reveal() == "your_secure_random_token"
    assert any(line.startswith("API_TOKEN: ") for line in settings.warnings)


def test_fresh_secrets_are_good_enough_for_production(load):
    printed = subprocess.run(
        [sys.executable, "run.py", "secrets"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    settings = load({"ENVIRONMENT": "production"}, dotenv=printed)
    assert settings.is_production
    assert settings.api_token.reveal().startswith("fl_")


@pytest.mark.parametrize("_", range(200))
def test_no_random_key_is_called_weak(_):
    import secrets

    assert weakness(secrets.token_urlsafe(32)) is None
    assert weakness(secrets.token_hex(32)) is None


@pytest.mark.parametrize(
    "value,fault",
    [
        ("whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", None),
        ("whsec_AAAA", "too short"),
        ("whsec_!!!", "whsec_ is not followed by base64"),
    ],
)
def test_a_standard_webhooks_secret_is_understood(value, fault):
    assert weakness(value) == fault


def test_debug_stops_production(faults):
    assert faults(PRODUCTION, DEBUG="True") == "DEBUG: true stops a production start; expected false"


def test_crash_points_stop_production_and_nothing_else(faults, load):
    assert faults(PRODUCTION, CRASH_POINTS="/tmp") == "CRASH_POINTS: stops a production start; expected nothing"
    assert load(CRASH_POINTS="/tmp").crash_points == "/tmp"


def test_unchecked_certificates_are_warned_of(load):
    (warning,) = load(PRODUCTION, HTTPX_CLIENT_VERIFY="False").warnings
    assert warning.startswith("HTTPX_CLIENT_VERIFY is false")


def test_development_makes_secrets_once_and_keeps_them(load, tmp_path):
    first, second = load(), load()
    assert first.secret_key == second.secret_key
    assert first.jwt_secret_keys == second.jwt_secret_keys
    kept = tmp_path / "instance" / "secret_key"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert kept.read_text() == first.secret_key.reveal()


def test_kept_secrets_are_not_taken_in_production(load, faults):
    load()
    assert "SECRET_KEY: missing" in faults(ENVIRONMENT="production")


def test_processes_that_start_at_once_agree(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda _: keep_secret(tmp_path / "secret_key"), range(64)))
    assert len(set(read)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["secret_key"]


def test_a_file_system_without_hard_links_will_do(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    assert keep_secret(tmp_path / "k") == keep_secret(tmp_path / "k")


def test_an_instance_that_cannot_be_made_is_told(faults, tmp_path):
    (tmp_path / "file").write_text("")
    assert faults(INSTANCE_PATH="file/instance").startswith("INSTANCE_PATH: ")


@pytest.mark.parametrize(
    "address,shown",
    [
        ("postgresql://u:canary@h:5432/d?sslpassword=canary", "postgresql://u:••••@h:5432/d"),
        ("postgresql://u:can/ary@h/d", "postgresql://••••"),
        ("postgresql://u:can?ary@h/d", "postgresql://••••"),
        ("redis://:canary@h/0", "redis://:••••@h/0"),
        ("u:canary@h/d", "something that is no address"),
        ("sqlite:////srv/app.db", "sqlite:////srv/app.db"),
    ],
)
def test_an_address_is_shown_without_its_password(address, shown):
    assert shown_address(address) == shown


@pytest.mark.parametrize("name", sorted(variable.name for variable in ATTRIBUTES.values() if variable.secret))
def test_no_fault_shows_a_secret(load, name):
    with pytest.raises(SettingsError) as stopped:
        load({**PRODUCTION, name: "canary\x07", "PORT": "x"})
    assert "canary" not in stopped.value.told()
    assert name in stopped.value.told()


# --- the list


def test_env_example_is_the_table():
    assert (ROOT / ".env.example").read_text(encoding="utf-8") == example(), "python run.py env-example > .env.example"


def test_every_variable_stands_once_in_env_example():
    listed = re.findall(r"^(?:# )?([A-Z][A-Z0-9_]+)=", example(), flags=re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert {variable.name for variable in ATTRIBUTES.values()} < set(listed)


def test_a_copy_of_env_example_changes_nothing(load):
    plain, copied = load(), load(dotenv=example())
    assert copied == plain


def test_every_default_is_a_value_its_parser_takes():
    for variable in ATTRIBUTES.values():
        for environment in ("development", "testing", "production"):
            default = variable.default_in(environment)
            assert default is None or variable.parse(default) is not None


def test_only_config_reads_the_environment():
    readers = [
        path for path in (ROOT / "flaskllm").rglob("*.py") if re.search(r"os\.environ|getenv", path.read_text("utf-8"))
    ]
    assert [path.name for path in readers] in ([], ["config.py"])
