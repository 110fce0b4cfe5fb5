"""LangChain's chat models and embeddings for OpenAI and Anthropic, unchanged but for address and key."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from harness import IMAGE, PLACE, Plan, check, run
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import AzureChatOpenAI, ChatOpenAI, OpenAIEmbeddings

URL, TOKEN = os.environ["GATEWAY"], os.environ["TOKEN"]


@tool
def weather(city: str, days: int) -> str:
    """The weather in a city."""
    return f"{city}: {days} days of rain"


def openai(model: str, **more: Any) -> ChatOpenAI:
    return ChatOpenAI(model=model, base_url=f"{URL}/v1", api_key=TOKEN, max_retries=0, **more)


def anthropic(model: str) -> ChatAnthropic:
    return ChatAnthropic(model=model, base_url=URL, api_key=TOKEN, max_retries=0, max_tokens=200)


def azure(model: str) -> AzureChatOpenAI:
    return AzureChatOpenAI(
        azure_deployment=model, azure_endpoint=URL, api_key=TOKEN, api_version="2024-10-21", max_retries=0
    )


def converses(chat: Any) -> None:
    answer = chat.invoke([SystemMessage("Be brief."), HumanMessage("Hello")])
    assert answer.text
    assert answer.usage_metadata["total_tokens"] > 0


def streams(chat: Any) -> None:
    whole = None
    for chunk in chat.stream("Hello"):
        whole = chunk if whole is None else whole + chunk
    assert whole is not None and whole.text
    assert whole.usage_metadata["output_tokens"] > 0


def uses_tools(chat: Any) -> None:
    bound = chat.bind_tools([weather], tool_choice="any")
    first = bound.invoke("call the tool")
    call = first.tool_calls[0]
    assert set(call["args"]) == {"city", "days"}
    result = ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"])
    assert chat.bind_tools([weather]).invoke([HumanMessage("call the tool"), first, result]) is not None


def answers_in_form(chat: Any, **more: Any) -> None:
    found = chat.with_structured_output({**PLACE, "title": "place", "description": "A place"}, **more).invoke("Where?")
    assert set(found) == {"city", "days"}


@check("chat")
def _openai_chat(model: str) -> None:
    converses(openai(model))
    streams(openai(model, stream_usage=True))


@check("chat")
def _openai_tools(model: str) -> None:
    uses_tools(openai(model))


@check("chat")
def _openai_structured(model: str) -> None:
    answers_in_form(openai(model), method="json_schema")


@check("chat")
def _openai_image(model: str) -> None:
    parts = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": IMAGE}}]
    assert openai(model).invoke([HumanMessage(parts)]).text


@check("chat")
def _openai_responses(model: str) -> None:
    assert openai(model, use_responses_api=True).invoke("Hello").text


@check("chat")
def _azure_chat(model: str) -> None:
    converses(azure(model))


@check("chat")
def _anthropic_chat(model: str) -> None:
    converses(anthropic(model))
    streams(anthropic(model))


@check("chat")
def _anthropic_tools(model: str) -> None:
    uses_tools(anthropic(model))


@check("chat")
def _anthropic_structured(model: str) -> None:
    answers_in_form(anthropic(model))


@check("embed")
def _embeddings(model: str) -> None:
    embeddings = OpenAIEmbeddings(model=model, base_url=f"{URL}/v1", api_key=TOKEN, check_embedding_ctx_length=False)
    one, two = embeddings.embed_documents(["one", "two"])
    assert len(one) == len(two) > 1


if __name__ == "__main__":
    run(Plan(**json.loads(sys.argv[1])))
