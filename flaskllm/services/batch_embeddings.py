"""Items of batches that are embeddings: kept as they came, once they were found good, and answered in OpenAI's form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from flaskllm.domain.answer import Told
from flaskllm.domain.batch import COMPLETED, Ended, Keep
from flaskllm.domain.call import CallContext
from flaskllm.domain.embedding import EmbedRequest, EmbedResult
from flaskllm.services.chat_orchestrator import ChatOrchestrator

Read = Callable[[dict[str, Any]], tuple[EmbedRequest, str]]
Write = Callable[[Told[EmbedResult], str], bytes]


class EmbeddingsRunner:
    """A `batch_worker.Runner`. ``read``, ``write``: a body, and how its vectors are wanted; and the answer to it."""

    def __init__(self, orchestrator: ChatOrchestrator, *, read: Read, write: Write) -> None:
        self._orchestrator = orchestrator
        self._read, self._write = read, write

    def __call__(self, question: Mapping[str, Any], call: CallContext, keep: Keep) -> Ended:
        request, form = self._read(dict(question["body"]))

        def ended(told: Told[EmbedResult]) -> Ended:
            return Ended(
                COMPLETED,
                model=(told.result.model or told.candidate.model.name)[:256],
                prompt_tokens=told.usage.prompt_tokens,
                cost=told.cost,
                response=self._write(told, form).decode(),
            )

        return ended(self._orchestrator.embed(request, replace(call, keep=lambda told: keep(ended(told)))))
