"""Seeding, the operator's file, the environment over the rows, and how old the picture may be."""

from __future__ import annotations

import json
import multiprocessing
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text

from flaskllm.domain.catalogue import Provider
from flaskllm.errors import Unavailable
from flaskllm.models.catalogue import ModelRow, ProviderRow
from flaskllm.models.types import now
from flaskllm.services.catalogue import Seeder
from flaskllm.services.catalogue_file import CatalogueFileError, read_catalogue
from flaskllm.services.price_book import price_of, vendor_price
from tests.services.catalogue_world import World, database_at, world

S4_FILE = """
models:
  llama-7b:
    display_name: "Llama 7B"
    backend_type: "openai_compatible"
    base_url: "${LLAMA_API_URL}"
    model_name: "llama-7b-instruct"
    max_tokens: 2048
    tier: "small"

  gpt-4-mini:
    display_name: "GPT-4 Mini"
    backend_type: "openai"
    base_url: "https://api.openai.com/v1"
    model_name: "gpt-4-mini"
    max_tokens: 4096
    tier: "medium"

  gemini-2.5-flash:
    display_name: "Gemini 2.5 Flash"
    backend_type: "openai_compatible"
    base_url: "${GEMINI_API_URL}"
    model_name: "gemini-2.5-flash"
    max_tokens: 8192
    tier: "large"
"""


def provider(of: World, provider_id: str) -> Provider:
    return of.cache.refresh().by_id[provider_id]


def overlay(tmp_path: Path, content: str) -> Path:
    path = tmp_path / "own.yaml"
    path.write_text(content, encoding="utf-8")
    return path


# -- seeding ----------------------------------------------------------------------------------------------------------


def test_seeding_again_changes_nothing(tmp_path: Path) -> None:
    first = world(tmp_path)
    version = first.cache.current().version
    done = Seeder(first.database, variable=first.settings.variable).run()
    assert (done.anything, done.version) == (False, version)


def test_seeding_repairs_a_shipped_row_but_never_an_administrators(tmp_path: Path) -> None:
    here = world(tmp_path)
    here.touch("openai", display_name="Ours")
    here.touch_model("openai", "gpt-4", context_window=1)
    with here.database.transaction() as session:
        session.query(ModelRow).filter_by(provider_id="openai", name="gpt-4.1").one().display_name = "stale"
    openai = provider(world(tmp_path), "openai")
    assert openai.display_name == "Ours"
    assert openai.model("gpt-4").context_window == 1  # type: ignore[union-attr]
    assert openai.model("gpt-4.1").display_name == "GPT-4.1"  # type: ignore[union-attr]


def test_what_was_deleted_does_not_come_back(tmp_path: Path) -> None:
    here = world(tmp_path)
    here.touch("grok", deleted_at=now())
    here.touch_model("openai", "gpt-4.1", deleted_at=now())
    catalogue = world(tmp_path).cache.current()
    assert "grok" not in catalogue.by_id
    assert catalogue.by_id["openai"].model("gpt-4.1") is None


def test_a_provider_that_an_administrator_took_over_gets_no_shipped_models(tmp_path: Path) -> None:
    here = world(tmp_path)
    with here.database.transaction() as session:
        session.delete(session.get_one(ProviderRow, "anthropic"))
    here.own_provider("anthropic", "claude-3-opus-20240229", kind="anthropic")
    assert [model.name for model in provider(world(tmp_path), "anthropic").models] == ["claude-3-opus-20240229"]


def test_a_model_that_left_the_file_leaves_the_catalogue(tmp_path: Path) -> None:
    own = overlay(tmp_path, "models: {mine: {provider: openai, model_name: gpt-4o}}")
    assert provider(world(tmp_path, overlay=own), "openai").model("mine")
    assert provider(world(tmp_path), "openai").model("mine") is None


def seed_at(path: str, barrier: Any, results: Any) -> None:
    database = database_at(Path(path))
    barrier.wait()
    results.put(Seeder(database, variable=lambda _: None).run().added)


def test_two_processes_that_seed_at_once_do_it_once(tmp_path: Path) -> None:
    database_at(tmp_path / "app.db")
    spawn = multiprocessing.get_context("spawn")
    barrier, results = spawn.Barrier(2), spawn.Queue()
    work = (str(tmp_path / "app.db"), barrier, results)
    processes = [spawn.Process(target=seed_at, args=work) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert sorted(bool(results.get(timeout=5)) for _ in range(2)) == [False, True]


# -- the shipped rows -------------------------------------------------------------------------------------------------


def test_s2s_rows_are_azures_to_the_field(tmp_path: Path) -> None:
    """The seed's own example answer, read from the file that is checked against it."""
    azure = provider(world(tmp_path), "azure_openai")
    expected = json.loads((Path(__file__).parent / "s2_providers.json").read_text(encoding="utf-8"))["data"][0]
    assert (azure.uid, azure.display_name, azure.description) == tuple(
        expected[name] for name in ("id", "label", "description")
    )
    for model, row in zip(azure.models, expected["model"], strict=True):
        shown = (model.id, model.name, model.display_name, model.description, model.context_window, model.training_data)
        fields = ("id", "name", "label", "description", "contextWindow", "tranningData")
        assert shown == tuple(row.get(name) for name in fields)
        assert list(model.prices) == row.get("price", [])


def test_s4s_three_names_head_their_tiers(tmp_path: Path) -> None:
    here = world(tmp_path, OPENAI_API_KEY="k" * 20, GEMINI_API_KEY="g" * 20, LLAMA_API_URL="http://127.0.0.1:9")
    for name, tier, target in [
        ("llama-7b", "small", "llama/llama-7b-instruct"),
        ("gpt-4-mini", "medium", "openai/gpt-4o-mini"),
        ("gemini-2.5-flash", "large", "gemini/gemini-2.5-flash"),
    ]:
        assert (here.names(name)[0], here.names(tier)[0]) == (target, target)


@pytest.mark.parametrize(
    "named", ["openai/gpt-4", "grok/grok-beta", "gemini/gemini-2.5-flash", "ngrok/gemini-2.5-flash"]
)
def test_the_seeds_default_models_are_there(tmp_path: Path, named: str) -> None:
    provider_id, _, name = named.partition("/")
    found = provider(world(tmp_path), provider_id)
    assert found.default_model == name
    assert found.model(name)


def test_every_shipped_model_of_a_vendor_but_the_ones_it_does_not_know_has_a_price(tmp_path: Path) -> None:
    every = {f"{name}_API_KEY": "k" * 20 for name in ("OPENAI", "ANTHROPIC", "GEMINI", "GROK")}
    catalogue = world(tmp_path, **every).cache.current()
    unpriced = [model.name for _, model in catalogue.models() if model.price is None]
    assert unpriced == ["grok-beta", "grok-imagine-image"]


# -- prices -----------------------------------------------------------------------------------------------------------


def test_the_catalogues_own_price_goes_before_the_price_book() -> None:
    own = price_of("azure_openai", "gpt-4o", "chat", [{"token": {"inputValue": 5.0, "outputValue": 15.0}}])
    book = price_of("azure_openai", "gpt-4o")
    assert own
    assert book
    assert (own.input, book.input) == (5_000_000_000, 2_500_000_000)
    assert own.version.startswith("catalogue:")
    assert re.fullmatch(r"genai-prices:[\d.]+", book.version)


@pytest.mark.parametrize("kind,model", [("openai", "no-such"), ("openai_compatible", "gpt-4o"), ("ngrok", "gpt-4o")])
def test_what_nobody_knows_the_price_of_has_none(kind: str, model: str) -> None:
    assert vendor_price(kind, model) is None
    assert price_of(kind, model, "chat", []) is None


def test_pixel_prices_alone_do_not_make_a_chat_models_tokens_free() -> None:
    price = price_of("openai", "gpt-4o", "chat", [{"pixel": {"width": 1, "height": 1, "value": 1}}])
    assert price
    assert price.input == 2_500_000_000


# -- the operator's own file ------------------------------------------------------------------------------------------


def test_s4s_own_file_is_understood_as_it_stands(tmp_path: Path) -> None:
    here = world(
        tmp_path, overlay=overlay(tmp_path, S4_FILE), OPENAI_API_KEY="k" * 20, LLAMA_API_URL="http://127.0.0.1:9"
    )
    small, medium = here.ask("llama-7b")[0], here.ask("gpt-4-mini")[0]
    assert (small.name, small.model.backend_model) == ("llama/llama-7b", "llama-7b-instruct")
    assert (medium.name, medium.model.backend_model, medium.model.max_tokens) == (
        "openai/gpt-4-mini",
        "gpt-4-mini",
        4096,
    )
    assert provider(here, "gemini").model("gemini-2.5-flash").max_tokens == 8192  # type: ignore[union-attr]


def test_an_entry_whose_variable_is_unset_is_off_and_says_which(tmp_path: Path) -> None:
    own = overlay(tmp_path, 'models: {mine: {backend_type: openai_compatible, base_url: "${MY_URL}", model_name: x}}')
    off, on = (
        provider(world(tmp_path, overlay=own), "mine"),
        world(tmp_path, overlay=own, MY_URL="http://127.0.0.1:9/v1"),
    )
    assert (off.on, off.switch) == (False, "MY_URL")
    assert on.ask("mine")[0].endpoint.base_url == "http://127.0.0.1:9/v1"


def test_a_key_in_the_operators_file_is_a_variables_name_and_never_written_down(tmp_path: Path) -> None:
    entry = 'backend_type: openai, base_url: "https://llm.test/v1", api_key: "${MY_KEY}", model_name: x'
    here = world(tmp_path, overlay=overlay(tmp_path, f"models: {{mine: {{{entry}}}}}"), MY_KEY="canary-key-123")
    key = here.ask("mine")[0].key
    assert key
    assert key.value == "canary-key-123"
    assert_nowhere_in_the_database(here, "canary-key-123")


@pytest.mark.parametrize(
    "content,told",
    [
        ("models: {x: {provider: openai, max_tokens: many}}", r"own\.yaml: models\.x: max_tokens: expected a number"),
        ("models: {x: {provider: nobody}}", r"models\.x: provider: 'nobody' is none of openai"),
        ("models: {x: {provider: openai, colour: red}}", r"models\.x: unknown field colour"),
        ("models: {x: {model_name: y}}", r"models\.x: backend_type: missing"),
        ("models: {x: {provider: openai, api_key: sk-secret}}", r"models\.x: api_key: expected the variable"),
        ("models: {x: {provider: openai, prices: [{token: {inputValue: -1}}]}}", r"models\.x: prices: -1 is no amount"),
        ("models: {x: {provider: openai, prices: [{token: {in: 1}}]}}", r"models\.x: prices: in: unknown"),
        ("models: {x: {provider: openai}, x: {provider: grok}}", r"'x' stands twice"),
        ("models: [", r"own\.yaml: cannot be read as YAML"),
        ("just text", r"own\.yaml: expected a mapping"),
        ("models: {x: 3}", r"models\.x: expected a name and a mapping"),
        ("providers: {p: {display_name: P}}", r"providers\.p: kind: missing"),
        (
            "models: {x: {provider: openai, base_url: 'https://other.test'}}",
            r"models\.x: base_url: .*providers\.openai",
        ),
        ("models: {x: !!python/object/apply:os.system [true]}", r"cannot be read as YAML"),
    ],
)
def test_a_bad_file_names_itself_and_the_entry_and_nothing_is_written(tmp_path: Path, content: str, told: str) -> None:
    database = database_at(tmp_path / "app.db")
    with pytest.raises(CatalogueFileError, match=told) as error:
        Seeder(database, variable=lambda _: None, overlay=overlay(tmp_path, content)).run()
    assert "sk-secret" not in str(error.value) or "api_key" in told
    with database.reading() as session:
        assert session.query(ProviderRow).count() == 0


def test_a_file_that_is_not_there_is_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(CatalogueFileError, match=r"gone\.yaml"):
        read_catalogue(tmp_path / "gone.yaml", variable=lambda _: None)


def test_the_operators_file_can_switch_a_shipped_model_off(tmp_path: Path) -> None:
    here = world(tmp_path, overlay=overlay(tmp_path, "models: {gpt-4.1: {enabled: false}}"), OPENAI_API_KEY="k" * 20)
    assert provider(here, "openai").model("gpt-4.1") is None


# -- the environment over the rows ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "provider_id,variable,value",
    [
        ("openai", "OPENAI_API_KEY", "k" * 20),
        ("grok", "XAI_API_KEY", "k" * 20),
        ("ngrok", "NGROK_BASE_URL", "http://127.0.0.1:9"),
        ("llama", "LLAMA_API_URL", "http://127.0.0.1:9"),
    ],
)
def test_a_key_or_an_address_in_the_environment_switches_a_provider_on(
    tmp_path: Path, provider_id: str, variable: str, value: str
) -> None:
    assert not provider(world(tmp_path), provider_id).on
    assert provider(world(tmp_path, **{variable: value}), provider_id).on


def test_keys_and_addresses_from_the_environment_are_never_written_down(tmp_path: Path) -> None:
    here = world(tmp_path, OPENAI_API_KEY="canary-openai-key", LLAMA_API_URL="http://canary-host:9")
    assert here.cache.current().by_id["openai"].on
    assert_nowhere_in_the_database(here, "canary")


def assert_nowhere_in_the_database(here: World, needle: str) -> None:
    with here.database.reading() as session:
        for table in ("providers", "provider_models", "provider_keys", "meta"):
            assert needle not in str(session.execute(text(f"SELECT * FROM {table}")).all())


def test_azures_regions_are_endpoints_of_one_provider(tmp_path: Path) -> None:
    regions = {"WEST_US": "https://w.test", "EAST_US": "https://e.test"}
    names = {f"AZURE_OPENAI_{name}_ENDPOINT": address for name, address in regions.items()}
    keys = {f"AZURE_OPENAI_{name}_API_KEY": f"key-of-{name}" for name in regions}
    azure = provider(world(tmp_path, **names, **keys), "azure_openai")
    shown = [(at.id, at.base_url, at.keys[0].value) for at in azure.endpoints]
    assert shown == [
        ("east_us", "https://e.test", "key-of-EAST_US"),
        ("west_us", "https://w.test", "key-of-WEST_US"),
    ]


def test_an_openai_address_of_gemini_changes_its_wire_and_not_its_prices(tmp_path: Path) -> None:
    gemini = provider(
        world(tmp_path, GEMINI_API_KEY="k" * 20, GEMINI_API_URL="http://127.0.0.1:9/v1beta/openai"), "gemini"
    )
    assert (gemini.kind, gemini.endpoints[0].base_url) == ("openai_compatible", "http://127.0.0.1:9/v1beta/openai")
    assert gemini.model("gemini-2.5-flash").price  # type: ignore[union-attr]


def test_a_default_model_that_no_row_knows_exists_all_the_same(tmp_path: Path) -> None:
    here = world(tmp_path, OPENAI_API_KEY="k" * 20, OPENAI_MODEL="gpt-4o-2024-11-20")
    asked = here.ask(None)[0]
    assert asked.model.name == "gpt-4o-2024-11-20"
    assert asked.model.price


def test_an_administrators_key_goes_before_the_environments(tmp_path: Path) -> None:
    here = world(tmp_path, OPENAI_API_KEY="from-the-environment")
    here.own_key("openai", "from-an-administrator")
    assert [key.value for key in provider(here, "openai").endpoints[0].keys] == ["from-an-administrator"]


def test_the_environments_key_never_goes_to_an_address_that_an_administrator_entered(tmp_path: Path) -> None:
    here = world(tmp_path, OPENAI_API_KEY="from-the-environment")
    here.touch("openai", connection={"api_base": "https://elsewhere.test/v1"})
    openai = provider(here, "openai")
    assert (openai.on, openai.endpoints[0].keys) == (False, ())
    here.own_key("openai", "for-elsewhere")
    assert provider(here, "openai").on


def test_variables_in_an_administrators_address_are_not_filled_in(tmp_path: Path) -> None:
    here = world(tmp_path, MY_SECRET="canary")
    here.own_provider("own", "m", connection={"api_base": "https://evil.test/${MY_SECRET}"})
    assert provider(here, "own").endpoints[0].base_url == "https://evil.test/${MY_SECRET}"


def test_an_administrators_off_is_off(tmp_path: Path) -> None:
    here = world(tmp_path, OPENAI_API_KEY="k" * 20)
    here.touch("openai", enabled=False)
    assert (provider(here, "openai").on, provider(here, "openai").switch) == (False, "")


def test_a_key_that_cannot_be_opened_is_left_out_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    here = world(tmp_path)
    here.own_key("openai", "sealed-for-openai")
    with here.database.transaction() as session:
        session.execute(text("UPDATE provider_keys SET provider_id = 'grok'"))
    here.touch("grok")
    assert not provider(here, "grok").on
    assert "cannot be decrypted" in caplog.text
    assert "sealed-for-openai" not in caplog.text


def test_a_kind_that_nobody_knows_is_off_and_harms_nobody(tmp_path: Path) -> None:
    here = world(tmp_path)
    here.own_provider("odd", "m", kind="gone-plugin")
    assert not provider(here, "odd").on
    assert provider(here, "demo").on


# -- how old the picture may be ---------------------------------------------------------------------------------------


def test_an_unchanged_catalogue_keeps_its_picture(tmp_path: Path) -> None:
    here = world(tmp_path)
    assert here.cache.current() is here.cache.current()


@pytest.mark.alone
def test_a_change_by_another_process_is_seen_within_a_second(tmp_path: Path) -> None:
    here, elsewhere = world(tmp_path, max_age=1.0), world(tmp_path)
    before = here.cache.current()
    elsewhere.own_provider("new", "m")
    assert here.cache.current() is before
    time.sleep(1.05)
    assert "new" in here.cache.current().by_id


@pytest.mark.alone
def test_the_version_is_looked_at_once_a_second_however_many_ask(tmp_path: Path) -> None:
    here, looks = world(tmp_path, max_age=1.0), []
    here.cache.current()
    event.listen(here.database.engine, "before_cursor_execute", lambda *arguments: looks.append(arguments[2]))
    threads = [threading.Thread(target=here.cache.current) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert looks == []


def test_while_the_database_is_away_the_old_picture_serves(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    here = world(tmp_path)
    before = here.cache.current()
    take_away(tmp_path)
    assert here.cache.current() is before
    assert "could not be read" in caplog.text


def test_without_a_first_picture_an_absent_database_is_told(tmp_path: Path) -> None:
    here = world(tmp_path)
    take_away(tmp_path)
    with pytest.raises(Unavailable):
        here.cache.current()


def take_away(tmp_path: Path) -> None:
    """A folder in the place of the file: SQLite can neither open nor make it."""
    for path in tmp_path.glob("app.db*"):
        path.unlink()
    (tmp_path / "app.db").mkdir()
