"""Which models this caller may get for this name, and in which order."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flaskllm.domain.catalogue import Catalogue, Endpoint, Key, Model, Provider
from flaskllm.domain.chat import ChatRequest
from flaskllm.domain.principal import Principal
from flaskllm.errors import DomainError, Forbidden, InvalidRequest, NotFound
from flaskllm.services.model_router import ModelRouter
from tests.services.catalogue_world import ANYBODY, World, world

OPENAI = {"OPENAI_API_KEY": "k" * 20}
AZURE = {"AZURE_OPENAI_EAST_US_API_KEY": "k" * 20, "AZURE_OPENAI_EAST_US_ENDPOINT": "https://e.test"}
AZURE_TOO = {"AZURE_OPENAI_WEST_US_API_KEY": "k" * 20, "AZURE_OPENAI_WEST_US_ENDPOINT": "https://w.test"}
GEMINI = {"GEMINI_API_KEY": "k" * 20}
LLAMA = {"LLAMA_API_URL": "http://127.0.0.1:9"}
TOOLS = {"tools": [{"type": "function", "function": {"name": "f"}}]}
SCHEMA = {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {}}}}
PICTURE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]}]


def only(*models: str) -> Principal:
    return Principal(user_id="u1", username="u", token_id="t1", models=models)


def refused(here: World, model: str | None, **more: Any) -> DomainError:
    with pytest.raises(DomainError) as error:
        here.ask(model, **more)
    return error.value


# -- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked,expected",
    [
        ("gpt-4o", ["openai/gpt-4o", "azure_openai/gpt-4o"]),
        ("azure_openai/gpt-4o", ["azure_openai/gpt-4o"]),
        ("gpt-4-mini", ["openai/gpt-4o-mini", "azure_openai/gpt-4o-mini"]),
        ("azure_openai/gpt-4-mini", ["azure_openai/gpt-4o-mini"]),
        ("gpt-35-turbo", ["azure_openai/gpt-35-turbo"]),
        (None, ["openai/gpt-4"]),
        ("demo", ["demo/demo"]),
        ("demo/demo", ["demo/demo"]),
    ],
)
def test_a_name_an_alias_and_nothing_find_their_models(tmp_path: Path, asked: str | None, expected: list[str]) -> None:
    assert world(tmp_path, **OPENAI, **AZURE).names(asked) == expected


def test_a_model_whose_name_holds_a_slash_is_found(tmp_path: Path) -> None:
    here = world(tmp_path, **OPENAI)
    here.own_provider("router", "openai/gpt-oss-120b")
    assert here.names("openai/gpt-oss-120b") == ["router/openai/gpt-oss-120b"]
    assert here.names("router/openai/gpt-oss-120b") == ["router/openai/gpt-oss-120b"]


def test_a_name_goes_before_an_alias(tmp_path: Path) -> None:
    here = world(tmp_path, **OPENAI)
    here.own_provider("zz", "gpt-4-mini")
    assert here.names("gpt-4-mini") == ["zz/gpt-4-mini", "openai/gpt-4o-mini"]


@pytest.mark.parametrize(
    "asked,told",
    [
        ("gpt-4o", "set OPENAI_API_KEY"),
        ("openai/gpt-4o", "set OPENAI_API_KEY"),
        ("claude-sonnet-5-5", "set ANTHROPIC_API_KEY"),
        ("llama-7b", "set LLAMA_API_URL"),
        ("grok-beta", "set GROK_API_KEY"),
        ("gpt-35-turbo", "set AZURE_OPENAI_<REGION>_API_KEY"),
        ("no-such-model", "GET /v1/models"),
        ("openai/no-such-model", "GET /v1/models"),
        ("x" * 5000, "GET /v1/models"),
    ],
)
def test_an_unknown_name_and_one_that_is_off_say_what_to_do(tmp_path: Path, asked: str, told: str) -> None:
    error = refused(world(tmp_path), asked)
    assert isinstance(error, NotFound)
    assert told in error.message
    assert len(error.message) < 300


def test_a_model_that_an_administrator_switched_off_is_unknown(tmp_path: Path) -> None:
    here = world(tmp_path, **OPENAI)
    here.touch_model("openai", "gpt-4.1", enabled=False)
    assert isinstance(refused(here, "gpt-4.1"), NotFound)


# -- the default, tiers, auto, demo -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "environment,expected",
    [
        ({}, "demo/demo"),
        (LLAMA, "llama/llama-7b-instruct"),
        (LLAMA | GEMINI, "gemini/gemini-2.5-flash"),
        (LLAMA | AZURE, "azure_openai/gpt-35-turbo"),
        (LLAMA | AZURE | {"AZURE_OPENAI_MODEL": "gpt-4o"}, "azure_openai/gpt-4o"),
        (OPENAI | GEMINI | {"LLM_PROVIDER": "gemini"}, "gemini/gemini-2.5-flash"),
    ],
)
def test_the_default_is_the_first_that_is_on(tmp_path: Path, environment: dict[str, str], expected: str) -> None:
    assert world(tmp_path, **environment).names(None) == [expected]


def test_a_default_provider_that_is_off_is_told(tmp_path: Path) -> None:
    error = refused(world(tmp_path, LLM_PROVIDER="openai"), None)
    assert "OPENAI_API_KEY" in error.message


@pytest.mark.parametrize("asked", [None, "small", "medium", "large", "auto", "demo", "demo/demo"])
def test_demo_answers_what_names_no_model_where_nobody_else_is_on(tmp_path: Path, asked: str | None) -> None:
    assert world(tmp_path).names(asked) == ["demo/demo"]


@pytest.mark.parametrize("asked", [None, "small", "large", "auto"])
def test_demo_stands_aside_as_soon_as_somebody_else_is_on(tmp_path: Path, asked: str | None) -> None:
    here = world(tmp_path, **OPENAI)
    assert all(not name.startswith("demo/") for name in here.names(asked))
    assert here.names("demo") == ["demo/demo"]


def test_demo_is_no_spare_for_another_providers_model_of_that_name(tmp_path: Path) -> None:
    here = world(tmp_path)
    here.own_provider("simulator", "demo")
    assert here.names("demo") == ["simulator/demo"]
    assert here.names("demo/demo") == ["demo/demo"]


def test_a_tier_gives_its_head_first_and_each_provider_before_anybodys_second(tmp_path: Path) -> None:
    names = world(tmp_path, **OPENAI, **GEMINI, **LLAMA).names("small")
    assert names[0] == "llama/llama-7b-instruct"
    assert [name.partition("/")[0] for name in names] == ["llama", "openai", "gemini", "openai"]


def test_auto_gives_the_defaults_of_all_that_are_on(tmp_path: Path) -> None:
    assert world(tmp_path, **OPENAI, **GEMINI).names("auto")[:2] == ["openai/gpt-4", "gemini/gemini-2.5-flash"]


def test_a_provider_narrows_the_choice(tmp_path: Path) -> None:
    here = world(tmp_path, **OPENAI, **AZURE, **GEMINI)
    assert here.names("gpt-4o", provider="azure_openai") == ["azure_openai/gpt-4o"]
    assert here.names(None, provider="gemini") == ["gemini/gemini-2.5-flash"]
    assert set(here.names("large", provider="openai")) <= {f"openai/{name}" for name in ("gpt-4o", "gpt-4.1")}
    assert isinstance(refused(here, "gpt-4o", provider="gemini"), NotFound)
    assert isinstance(refused(here, "openai/gpt-4o", provider="azure_openai"), NotFound)


@pytest.mark.parametrize("provider,told", [("grok", "GROK_API_KEY"), ("nobody", "no provider 'nobody'")])
def test_a_provider_that_is_off_or_unknown_is_told(tmp_path: Path, provider: str, told: str) -> None:
    assert told in refused(world(tmp_path, **OPENAI), "gpt-4o", provider=provider).message


# -- what the request needs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked,more,field",
    [
        ("gpt-4", {"params": SCHEMA}, "response_format"),
        ("gpt-4", {"messages": PICTURE}, "messages"),
        ("text-embedding-3-small", {}, "model"),
    ],
)
def test_a_named_model_that_cannot_names_the_field(
    tmp_path: Path, asked: str, more: dict[str, Any], field: str
) -> None:
    error = refused(world(tmp_path, **OPENAI), asked, **more)
    assert isinstance(error, InvalidRequest)
    assert error.param == field


def test_a_model_without_tools_names_tools(tmp_path: Path) -> None:
    here = world(tmp_path, **OPENAI)
    here.touch_model("openai", "gpt-4.1", abilities=["images"])
    assert refused(here, "gpt-4.1", params=TOOLS).param == "tools"


def test_a_choice_takes_only_models_that_can(tmp_path: Path) -> None:
    here = world(tmp_path, **OPENAI, **GEMINI)
    assert here.names("auto", params=SCHEMA)[:2] == ["openai/gpt-4o-mini", "gemini/gemini-2.5-flash"]


def test_a_choice_that_nobody_fits_names_what_was_too_much(tmp_path: Path) -> None:
    here = world(tmp_path, **AZURE)
    assert refused(here, "small", params=SCHEMA).param == "response_format"


def test_a_model_that_lists_no_abilities_is_believed_to_have_them(tmp_path: Path) -> None:
    here = world(tmp_path)
    here.own_provider("own", "m")
    assert here.names("m", params={**TOOLS, **SCHEMA}, stream=True) == ["own/m"]


@dataclass(frozen=True)
class Embedding:
    model: str | None = None
    provider: str | None = None


@pytest.mark.parametrize(
    "environment,expected",
    [
        ({}, "demo/demo"),
        (OPENAI, "openai/text-embedding-3-small"),
        ({"ANTHROPIC_API_KEY": "k" * 20} | GEMINI, "gemini/gemini-embedding-001"),
        (OPENAI | GEMINI | {"LLM_PROVIDER": "gemini"}, "gemini/gemini-embedding-001"),
    ],
)
def test_embeddings_go_to_the_first_that_makes_them(tmp_path: Path, environment: dict[str, str], expected: str) -> None:
    found = world(tmp_path, **environment).router.candidates(Embedding(), ANYBODY, ability="embeddings")
    assert found[0].name == expected


def test_a_chat_model_makes_no_embeddings(tmp_path: Path) -> None:
    here = world(tmp_path, **OPENAI)
    with pytest.raises(InvalidRequest):
        here.router.candidates(Embedding("gpt-4o"), ANYBODY, ability="embeddings")


# -- what the token may -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "allowed,asked,expected",
    [
        (only("gpt-4o"), "gpt-4o", ["openai/gpt-4o", "azure_openai/gpt-4o"]),
        (only("gpt-4o"), "azure_openai/gpt-4o", ["azure_openai/gpt-4o"]),
        (only("azure_openai/gpt-4o"), "gpt-4o", ["azure_openai/gpt-4o"]),
        (only("gpt-4-mini"), "openai/gpt-4o-mini", ["openai/gpt-4o-mini"]),
        (only("gpt-4o-mini"), "gpt-4-mini", ["openai/gpt-4o-mini", "azure_openai/gpt-4o-mini"]),
        (only("gpt-4o-mini"), "medium", ["openai/gpt-4o-mini", "azure_openai/gpt-4o-mini"]),
        (only("openai/gpt-4.1"), "auto", ["openai/gpt-4.1"]),
    ],
)
def test_a_token_gets_only_the_models_that_it_names(
    tmp_path: Path, allowed: Principal, asked: str, expected: list[str]
) -> None:
    assert world(tmp_path, **OPENAI, **AZURE).names(asked, who=allowed) == expected


def test_a_tier_in_the_tokens_list_opens_the_tier_and_no_model_by_name(tmp_path: Path) -> None:
    here = world(tmp_path, **OPENAI)
    assert here.names("medium", who=only("medium"))[0] == "openai/gpt-4o-mini"
    assert isinstance(refused(here, "gpt-4o-mini", who=only("medium")), Forbidden)


@pytest.mark.parametrize("asked", ["gpt-4o", "large", "auto", None, "openai/gpt-4o"])
def test_what_the_token_may_not_use_is_forbidden(tmp_path: Path, asked: str | None) -> None:
    assert isinstance(refused(world(tmp_path, **OPENAI), asked, who=only("claude-sonnet-5-5")), Forbidden)


def test_an_unknown_name_is_unknown_whatever_the_token_may(tmp_path: Path) -> None:
    assert isinstance(refused(world(tmp_path, **OPENAI), "no-such", who=only("no-such")), NotFound)


# -- endpoints and keys in turn ---------------------------------------------------------------------------------------


def router_of(*endpoints: Endpoint, others: int = 0, rests: tuple[str, ...] = ()) -> ModelRouter:
    def provider(provider_id: str, *at: Endpoint) -> Provider:
        return Provider(provider_id, "demo", endpoints=at, models=(Model("m", provider_id, "m", "m"),))

    more = [provider(f"other{number}", Endpoint("main", ""), Endpoint("spare", "")) for number in range(others)]
    catalogue = Catalogue(1, (provider("first", *endpoints), *more))
    return ModelRouter(lambda: catalogue, rests=lambda candidate: candidate.endpoint.id in rests)


def turns(router: ModelRouter, times: int) -> list[list[str]]:
    asked = ChatRequest("m", [])
    found = [router.candidates(asked, ANYBODY) for _ in range(times)]
    return [[f"{at.endpoint.id}{at.key.id if at.key else ''}" for at in each] for each in found]


def test_regions_are_asked_in_turn_and_stand_in_for_each_other() -> None:
    router = router_of(Endpoint("east", "e", (Key("1", "k"),)), Endpoint("west", "w", (Key("2", "k"),)))
    assert turns(router, 3) == [["east1", "west2"], ["west2", "east1"], ["east1", "west2"]]


def test_keys_are_used_in_turn() -> None:
    router = router_of(Endpoint("at", "", (Key("1", "k"), Key("2", "k"), Key("3", "k"))))
    assert turns(router, 4) == [["at1", "at2"], ["at2", "at3"], ["at3", "at1"], ["at1", "at2"]]


def test_another_endpoint_stands_in_before_another_key() -> None:
    router = router_of(Endpoint("a", "", (Key("1", "k"), Key("2", "k"))), Endpoint("b", "", (Key("3", "k"),)))
    assert all(one[0] != two[0] for one, two in turns(router, 3))


def test_two_a_provider_and_four_in_all() -> None:
    keys = tuple(Key(str(number), "k") for number in range(5))
    found = router_of(Endpoint("at", "", keys), others=3).candidates(ChatRequest("m", []), ANYBODY)
    assert [candidate.provider.id for candidate in found] == ["first", "first", "other0", "other0"]


def test_who_rests_goes_behind_those_who_may_answer() -> None:
    router = router_of(Endpoint("a", ""), Endpoint("b", ""), Endpoint("c", ""), rests=("a", "b"))
    assert [each[0] for each in turns(router, 3)] == ["c", "c", "c"]


def test_threads_share_the_turns_evenly() -> None:
    router = router_of(Endpoint("a", "", (Key("1", "k"),)), Endpoint("b", "", (Key("2", "k"),)))
    with ThreadPoolExecutor(8) as pool:
        firsts = [each[0][0] for each in pool.map(lambda _: turns(router, 1), range(200))]
    assert firsts.count("a1") == firsts.count("b2") == 100


# -- what is listed ---------------------------------------------------------------------------------------------------


def test_each_name_is_listed_once_owned_by_the_provider_that_the_bare_name_goes_to(tmp_path: Path) -> None:
    here = world(tmp_path, **OPENAI, **AZURE, **AZURE_TOO)
    listed = {entry.name: entry.provider.id for entry in here.router.visible(ANYBODY)}
    assert len(listed) == len(here.router.visible(ANYBODY))
    assert (listed["gpt-4o"], listed["azure_openai/gpt-4o"]) == ("openai", "azure_openai")
    assert (listed["gpt-4-mini"], listed["gpt-35-turbo"], listed["demo"]) == ("openai", "azure_openai", "demo")
    assert not {"small", "medium", "large", "auto", "openai/gpt-4o"} & set(listed)


def test_every_listed_name_goes_where_the_list_says(tmp_path: Path) -> None:
    here = world(tmp_path, **OPENAI, **AZURE, **GEMINI, **LLAMA)
    for entry in here.router.visible(ANYBODY):
        if entry.model.has("chat"):
            first = here.ask(entry.name)[0]
            assert (first.provider.id, first.model.name) == (entry.provider.id, entry.model.name)


def test_only_what_the_token_may_use_is_listed(tmp_path: Path) -> None:
    here = world(tmp_path, **OPENAI, **AZURE)
    names = [entry.name for entry in here.router.visible(only("gpt-4o", "demo"))]
    assert names == ["gpt-4o", "azure_openai/gpt-4o", "demo"]


def test_what_is_off_is_not_listed(tmp_path: Path) -> None:
    assert [entry.name for entry in world(tmp_path).router.visible(ANYBODY)] == ["demo"]
