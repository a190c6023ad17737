"""Answers from a server: one we start for a GGUF, or somebody else's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from slipway.evaluation.endpoint import Endpoint, RowRefusedError, each
from slipway.evaluation.generation import Generation
from slipway.evaluation.models import Model
from slipway.evaluation.predictions import Prediction
from slipway.evaluation.questions import Question

_PER_MESSAGE = 16  # tokens of template around one turn, generously
_DEFAULT_SYSTEM = 64  # tokens that a template may add when there is no system turn
_SMALLEST_CONTEXT = 512


def ask_all(
    endpoint: Endpoint,
    name: str,
    questions: Sequence[Question],
    generation: Generation,
    keep: Callable[[Prediction], None],
    *,
    at_once: int,
) -> None:
    """Ask every question and hand each answer to `keep` as it comes, from many threads.

    A row that the server refuses becomes a prediction with an `error`; see `Endpoint.chat` for
    what stops all.
    """
    settings = generation.as_openai()

    def ask(question: Question) -> None:
        started = time.monotonic()
        more = {"tools": list(question.sample.tools)} if question.sample.tools else {}
        try:
            reply = endpoint.chat(name, question.messages, **settings, **more)
        except RowRefusedError as error:
            keep(
                Prediction(
                    question.id, question.prompt, "", question.reference, error=error.message_en
                )
            )
            return
        keep(
            Prediction(
                question.id,
                question.prompt,
                reply.text.strip(),
                question.reference,
                reply.finish,
                reply.prompt_tokens,
                reply.tokens,
                round(time.monotonic() - started, 3),
            )
        )

    each(questions, ask, at_once=at_once)


@contextmanager
def gguf_server(
    command: Sequence[str], model: Model, *, context: int, slots: int
) -> Iterator[Endpoint]:
    """A server with llama-server's protocol on a GGUF for the length of the block.

    Args:
        command: the program and its first arguments.
        context: tokens for each slot.

    Raises:
        ToolError: it did not start; its log is quoted.
    """
    from slipway.export.server import serving

    assert model.path is not None
    line: list[str | Path] = [*command, "-m", model.path, "-c", str(context * slots)]
    line += ["-np", str(slots), "--no-kv-unified", "--no-ui", "--offline", "--jinja"]
    with serving(line) as server, Endpoint(server.url) as endpoint:
        yield endpoint


def context_for(texts: Sequence[str], turns: int, max_new_tokens: int) -> int:
    """A context that every prompt and its answer fit in: a token is at least one byte of text.

    Args:
        texts: whole prompts.
        turns: most turns of any prompt.
    """
    longest = max((len(text.encode("utf-8")) for text in texts), default=0)
    needed = longest + turns * _PER_MESSAGE + _DEFAULT_SYSTEM + max_new_tokens
    return max(_SMALLEST_CONTEXT, -(-needed // 256) * 256)
