"""A Hugging Face folder, alone or with an adapter, in memory: loss, answers, options."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from slipway.core.errors import InputError
from slipway.core.i18n import tr
from slipway.datasets import Encoded, EncodeRule, Sample, encode_all, load_tokenizer
from slipway.datasets.render import renderer_for
from slipway.evaluation.generation import Generation
from slipway.evaluation.models import Model
from slipway.evaluation.predictions import Prediction
from slipway.evaluation.questions import Question
from slipway.training import lora
from slipway.training.attention import NAME as PACKED
from slipway.training.batch import batches
from slipway.training.evaluate import rows_loss
from slipway.training.model import load_base, pick_device, pick_dtype, set_threads

_PACK_TOKENS = 2048
IGNORE = -100


@dataclass(frozen=True, slots=True)
class LossRows:
    """Losses by row.

    Attributes:
        rows: (row id, sum of losses in nats, label tokens), in the order of the samples.
        cut: rows that lost their end to the cut-off.
        dropped: rows without a label before the cut-off.
    """

    rows: list[tuple[str, float, int]]
    cut: list[str]
    dropped: list[str]


class LocalModel:
    """The loaded model and its tokenizer.

    Args:
        template: name of a chat template for a model without one.

    Raises:
        InputError, NotFoundError: the folder or the adapter cannot be loaded.
    """

    def __init__(self, model: Model, *, dtype: str = "auto", template: str | None = None) -> None:
        assert model.path is not None
        set_threads(None)
        self.device = pick_device()
        self._path = model.path
        self.tokenizer = load_tokenizer(model.path, template, chat=template is not None)
        if model.template is not None:
            self.tokenizer.chat_template = model.template.read_text(encoding="utf-8")
        self.model = load_base(model.path, pick_dtype(dtype, self.device), self.device)
        if model.adapter is not None:
            lora.load_adapter(self.model, model.adapter)
            self.model.eval()

    def _require_template(self) -> None:
        if not self.tokenizer.chat_template:
            load_tokenizer(self._path)  # says what is missing, and what to do

    def losses(
        self, samples: Sequence[Sample], cutoff_len: int, on_pack: Callable[[], None]
    ) -> LossRows:
        """The loss of every row that has a label.

        Of a conversation the assistant's tokens are labels, of a plain text all but the first.
        """
        if any(sample.kind != "text" for sample in samples):
            self._require_template()
        # named by their place, because a sample may become several documents: "7#1", "7#2"
        placed = [replace(sample, id=str(at)) for at, sample in enumerate(samples)]
        sets = [
            encode_all(some, self.tokenizer, cutoff_len, rule=EncodeRule(cutoff_len, pt=pt))
            for pt in (False, True)
            if (some := [sample for sample in placed if (sample.kind == "text") == pt])
        ]
        rows = [row for one in sets for row in one.rows]
        if not rows:
            raise InputError(
                "eval.no_label",
                tr("no row has a token to score within {cutoff} tokens", cutoff=cutoff_len),
            )
        sums = [[0.0, 0] for _ in samples]
        for key, loss, tokens in rows_loss(self.model, rows, on_pack=on_pack).per_row:
            mine = sums[int(key.partition("#")[0])]
            mine[0] += loss
            mine[1] += tokens
        return LossRows(
            [(s.id, loss, int(n)) for s, (loss, n) in zip(samples, sums, strict=True) if n],
            [samples[int(row.id)].id for one in sets for row in one.truncated],
            [samples[int(row.id)].id for one in sets for row in one.dropped],
        )

    def answer(
        self,
        batch: Sequence[Question],
        generation: Generation,
        seed: int,
        keep: Callable[[Prediction], None],
    ) -> None:
        """Answer a batch of questions and hand each answer to `keep`.

        Prompts are padded on the left. Padding changes the order of sums, so a near-tie between
        two tokens may fall otherwise in another batch; the same batch gives the same answers.
        """
        self._require_template()
        started = time.monotonic()
        texts = [self._render(question, generation.thinking) for question in batch]
        encoded = self.tokenizer(
            texts,
            add_special_tokens=False,
            padding=len(texts) > 1,
            padding_side="left",
            return_tensors="pt",
        ).to(self.device)
        with _plain_attention(self.model), torch.inference_mode(), torch.random.fork_rng():
            torch.manual_seed(seed)
            output = self.model.generate(
                input_ids=encoded["input_ids"],
                attention_mask=encoded["attention_mask"],
                generation_config=self._config(generation),
                **({"tokenizer": self.tokenizer} if generation.stop else {}),
            )
        width = encoded["input_ids"].shape[1]
        seconds = round(time.monotonic() - started, 3)
        for at, question in enumerate(batch):
            ids = output[at, width:].tolist()
            ended = next((i for i, token in enumerate(ids) if token in self._ends), len(ids))
            text = self.tokenizer.decode(ids[:ended], skip_special_tokens=True)
            cut = generation.cut(text)
            whole = ended < generation.max_new_tokens or len(cut) < len(text)
            keep(
                Prediction(
                    question.id,
                    question.prompt,
                    cut.strip(),
                    question.reference,
                    "stop" if whole else "length",
                    int(encoded["attention_mask"][at].sum()),
                    ended,
                    seconds,
                )
            )

    def _render(self, question: Question, thinking: str) -> str:
        turns = [_for_template(message) for message in question.messages]
        return renderer_for(self.tokenizer).render(
            turns, question.sample, add_generation_prompt=True, thinking=thinking
        )

    def _config(self, generation: Generation) -> Any:
        from transformers import GenerationConfig

        draw = (
            {"do_sample": True, "temperature": generation.temperature, "top_p": generation.top_p,
             "top_k": 0}
            if generation.temperature
            else {"do_sample": False}
        )  # fmt: skip
        pad = self.tokenizer.pad_token_id
        return GenerationConfig(
            max_new_tokens=generation.max_new_tokens,
            eos_token_id=sorted(self._ends),
            pad_token_id=pad if pad is not None else min(self._ends),
            stop_strings=list(generation.stop) or None,
            **draw,
        )

    @property
    def _ends(self) -> set[int]:
        """Tokens that end an answer: the model's, the tokenizer's, and the template's own."""
        named = getattr(self.model.generation_config, "eos_token_id", None)
        ends = set(named if isinstance(named, list) else [named])
        ends.add(self.tokenizer.eos_token_id)
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        try:
            text = str(self.tokenizer.apply_chat_template(turns, tokenize=False)).rstrip()
        except Exception:  # the template wants more turns; the other two suffice then
            text = ""
        for number, token in self.tokenizer.added_tokens_decoder.items():
            if token.special and token.content and text.endswith(token.content):
                ends.add(number)
        return {end for end in ends if end is not None}

    def option_scores(
        self, prompts: Sequence[str], options: Sequence[Sequence[str]]
    ) -> Iterator[list[float]]:
        """For each prompt the log-probability of each option as the next token.

        One packed forward pass; only the options' rows of the output head are computed, so the
        probabilities are among the options.

        Args:
            options: for each prompt its options, each to be appended to the prompt as it is.

        Raises:
            InputError: an option is not one token after its prompt.
        """
        rows, tokens = [], {}
        for at, (prompt, choices) in enumerate(zip(prompts, options, strict=True)):
            ids, tokens[str(at)] = self._option_tokens(prompt, choices)
            labels = [IGNORE] * len(ids) + [tokens[str(at)][0]]
            rows.append(Encoded(str(at), [*ids, tokens[str(at)][0]], labels))
        found: dict[str, list[float]] = {}
        head = self.model.get_output_embeddings()
        with torch.inference_mode():
            for packed, batch in batches(rows, _PACK_TOKENS, self.device):
                hidden = self.model.get_decoder()(
                    input_ids=batch.input_ids,
                    position_ids=batch.positions,
                    use_cache=False,
                    slipway_layout=batch.where,
                ).last_hidden_state[0]
                last = hidden.index_select(0, batch.rows)
                for place, row_id in enumerate(packed.doc_ids):
                    number = torch.tensor(tokens[row_id], device=self.device)
                    weight = head.weight.index_select(0, number)
                    logits = (weight @ last[place]).float()
                    if head.bias is not None:
                        logits = logits + head.bias.index_select(0, number)
                    found[row_id] = torch.log_softmax(logits, -1).tolist()
        for at in range(len(prompts)):
            yield found[str(at)]

    def _option_tokens(self, prompt: str, options: Sequence[str]) -> tuple[list[int], list[int]]:
        """The prompt's tokens, and the one token of each option after it."""
        encoded = [
            self.tokenizer(prompt + option, add_special_tokens=False)["input_ids"]
            for option in options
        ]
        ids = encoded[0][:-1]
        last = [row[-1] for row in encoded]
        if any(row[:-1] != ids for row in encoded) or len(set(last)) != len(last):
            raise InputError(
                "eval.options",
                tr("this tokenizer does not write each option as one token after the prompt"),
                tr("evaluate the model as a GGUF or behind a server instead"),
            )
        bos = self.tokenizer.bos_token_id
        if bos is not None and getattr(self.tokenizer, "add_bos_token", False):
            ids = [bos, *ids]
        return ids, last


class _plain_attention:
    """Generation needs a cache, which the packed attention of training has not."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __enter__(self) -> None:
        self._model.set_attn_implementation("sdpa")

    def __exit__(self, *_: object) -> None:
        self._model.set_attn_implementation(PACKED)


def _for_template(message: dict[str, Any]) -> dict[str, Any]:
    """Templates want the arguments of a call as an object, servers as text."""
    import json

    calls = [
        {**call, "function": {**call["function"],
                              "arguments": json.loads(call["function"]["arguments"])}}
        for call in message.get("tool_calls", ())
    ]  # fmt: skip
    return {**message, "tool_calls": calls} if calls else message
