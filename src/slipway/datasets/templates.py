"""Families of chat templates, known by the names that LLaMA Factory's users write.

A model is trained in the template that it brings along, never in another. A name in a recipe is a
claim about it, and is checked: a probe is rendered, and the texts that stand around a question and
an answer are compared with what the named family writes there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slipway.core.errors import InputError, UsageError, nearest
from slipway.core.files import write_text
from slipway.core.i18n import Text, tr

TEMPLATE_FILE = "chat_template.jinja"
_QUESTION, _ANSWER, _NEXT = "probe-question", "probe-answer", "probe-next"
_THOUGHT = re.compile(r"<think>\s*(?:</think>\s*)?")


@dataclass(frozen=True, slots=True)
class Family:
    """One way of marking turns.

    Attributes:
        before: what stands right before a question.
        between: what stands between a question and its answer.
        names: the templates of LLaMA Factory that write this; the first is the best known.
        thinking: those of `names` whose models think.
    """

    before: str
    between: str
    names: tuple[str, ...]
    thinking: tuple[str, ...] = ()


FAMILIES: tuple[Family, ...] = (
    Family(
        "<|im_start|>user\n",
        "<|im_end|>\n<|im_start|>assistant\n",
        (
            *("chatml", "chatml_de", "qwen", "qwen2_audio", "qwen2_omni", "qwen2_vl", "qwen3"),
            *("qwen3_5", "qwen3_5_nothink", "qwen3_6", "qwen3_nothink", "qwen3_omni"),
            *("qwen3_vl", "qwen3_vl_nothink", "smollm", "smollm2", "yi", "intern2", "dbrx"),
        ),
        ("qwen3", "qwen3_5", "qwen3_6", "qwen3_vl"),
    ),
    Family("User: ", "\n\nAssistant:", ("deepseek",)),
    Family("<｜User｜>", "<｜Assistant｜>", ("deepseek3", "deepseekr1"), ("deepseekr1",)),
    Family("### Instruction:\n", "\n### Response:\n", ("deepseekcoder",)),
    Family("### Instruction:\n", "\n\n### Response:\n", ("alpaca",)),
    Family(
        "<|start_header_id|>user<|end_header_id|>\n\n",
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        ("llama3", "mllama"),
    ),
    Family(
        "<|header_start|>user<|header_end|>\n\n",
        "<|eot|><|header_start|>assistant<|header_end|>\n\n",
        ("llama4",),
    ),
    Family("[INST] ", " [/INST]", ("llama2", "llama2_zh", "mistral")),
    Family(
        "<start_of_turn>user\n",
        "<end_of_turn>\n<start_of_turn>model\n",
        ("gemma", "gemma2", "gemma3", "gemma3n"),
    ),
    Family("<|user|>\n", "<|end|>\n<|assistant|>\n", ("phi",)),
    Family("<|im_start|>user<|im_sep|>", "<|im_end|><|im_start|>assistant<|im_sep|>", ("phi4",)),
    Family("<|user|>\n", "<|assistant|>\n", ("glm4", "glm4_moe", "glmz1"), ("glm4_moe", "glmz1")),
    Family("<|user|>\n", "</s>\n<|assistant|>\n", ("zephyr",)),
    Family(
        "<|start_of_role|>user<|end_of_role|>",
        "<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>",
        ("granite3",),
    ),
    Family("USER: ", " ASSISTANT:", ("vicuna",)),
    Family("Human: ", "\nAssistant:", ("default",)),
    Family("", "", ("empty",)),
)

# for a base model without a template, only when the recipe asks for it by name
OURS = {
    "chatml": (
        "{% for message in messages %}"
        "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}\n"
    ),
    "default": (
        "{% for message in messages %}"
        "{% if message['role'] == 'system' %}{{ message['content'] + '\\n' }}"
        "{% elif message['role'] == 'user' %}{{ 'Human: ' + message['content'] + '\\n' }}"
        "{% else %}{{ 'Assistant:' + message['content'] + eos_token + '\\n' }}{% endif %}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}\n"
    ),
}
_NEEDED = {"chatml": ("<|im_start|>", "<|im_end|>"), "default": ()}


@dataclass(frozen=True, slots=True)
class TemplateFinding:
    """What the model's own chat template turned out to be.

    Attributes:
        family: the family it belongs to; None when it is one of its own.
        before, between: as in `Family`, found by the probe.
        thinks: it knows thoughts (`<think>`).
        default_system: the system turn that it adds to conversations without one.
        notes: what differs from the name in the recipe without being wrong.
    """

    family: Family | None
    before: str
    between: str
    thinks: bool
    default_system: str
    notes: tuple[Text, ...] = ()

    @property
    def name(self) -> str:
        """The family's best known name, or the marks themselves."""
        return self.family.names[0] if self.family else f"{self.before}…{self.between}…"


def find_template(tokenizer: Any) -> TemplateFinding:
    """Recognise the chat template of a tokenizer by what it does.

    Raises:
        InputError: it cannot render a question and an answer, or writes no generation prompt.
    """
    turns = [
        {"role": "user", "content": _QUESTION},
        {"role": "assistant", "content": _ANSWER},
        {"role": "user", "content": _NEXT},
    ]
    text, prompt = _render(tokenizer, turns, False), _render(tokenizer, turns, True)
    head, found, rest = text.partition(_QUESTION)
    between, answered, _ = rest.partition(_ANSWER)
    if not found or not answered or _NEXT not in rest:
        raise InputError(
            "template.unusable",
            tr("the model's chat template leaves out the question or the answer"),
            tr("take the model's original chat_template.jinja"),
        )
    between = _THOUGHT.sub("", between)
    opened = _THOUGHT.sub("", prompt.rpartition(_NEXT)[2])
    if between.strip() and prompt == text and not opened.strip().endswith(between.strip()):
        raise no_generation_prompt()
    source = str(tokenizer.chat_template)
    family = next((f for f in FAMILIES if _writes(f, head, between)), None)
    before = family.before if family else head[-40:]
    return TemplateFinding(family, before, between, "think>" in source, _system_of(head, before))


def check_template(tokenizer: Any, name: str | None) -> TemplateFinding:
    """Hold the model's own chat template to the name in a recipe.

    Raises:
        UsageError: nobody knows a template of this name.
        InputError: the model's template is not of the named family; or `find_template`'s reasons.
    """
    found = find_template(tokenizer)
    if name is None:
        return found
    known = {alias: family for family in FAMILIES for alias in family.names}
    if name not in known:
        close = nearest(name, known)
        raise UsageError(
            "template.unknown",
            tr("`template: {name}` is not a name that is known here", name=name),
            tr(
                "leave `template` out: the model's own chat template ({found}) is used; or did you "
                "mean {names}?",
                found=found.name,
                names=", ".join(close) or found.name,
            ),
        )
    if found.family is not known[name]:
        raise InputError(
            "template.mismatch",
            tr(
                "the recipe says `template: {name}`, but the model's own chat template is {found}: "
                "it writes {between} between a question and its answer",
                name=name,
                found=found.name,
                between=repr(found.between),
            ),
            tr("leave `template` out, or take a model of that family"),
        )
    notes = _notes(name, known[name], found)
    return TemplateFinding(
        found.family, found.before, found.between, found.thinks, found.default_system, notes
    )


def put_template(tokenizer: Any, name: str) -> None:
    """Give a base model without a chat template one of ours; see `save_template`.

    Raises:
        UsageError: we have none of this name.
        InputError: the model's vocabulary lacks the marks, which would have to be trained first.
    """
    if name not in OURS:
        raise UsageError(
            "template.none_of_ours",
            tr("the model has no chat template, and there is none named `{name}` here", name=name),
            tr("take the Instruct version of the model, or set `template: chatml` or `default`"),
        )
    missing = [mark for mark in _NEEDED[name] if mark not in tokenizer.all_special_tokens]
    added = {str(token.content) for token in tokenizer.added_tokens_decoder.values()}
    missing = [mark for mark in missing if mark not in added]
    if missing or tokenizer.eos_token is None:
        raise InputError(
            "template.no_marks",
            tr(
                "`template: {name}` needs the control tokens {marks}, which the model's vocabulary "
                "does not have",
                name=name,
                marks=", ".join(missing) or "eos",
            ),
            tr("take the Instruct version of the model, or set `template: default`"),
        )
    tokenizer.chat_template = OURS[name]
    tokenizer.init_kwargs["slipway_template"] = name


def save_template(tokenizer: Any, folder: Path) -> bool:
    """Write `chat_template.jinja` if `put_template` gave the tokenizer one; say whether it did.

    Raises:
        SlipwayError: the disk is full.
    """
    if "slipway_template" not in tokenizer.init_kwargs:
        return False
    write_text(folder / TEMPLATE_FILE, str(tokenizer.chat_template))
    return True


def no_generation_prompt() -> InputError:
    """A template that does not say whose turn it is."""
    return InputError(
        "data.no_generation_prompt",
        tr(
            "the chat template ignores `add_generation_prompt`: a served model would have "
            "to guess that it is its turn"
        ),
        tr(
            "add `{% if add_generation_prompt %}...{% endif %}` to the end of the "
            "model's chat_template.jinja, or take the model's original template"
        ),
    )


def _render(tokenizer: Any, turns: list[dict[str, str]], prompt: bool) -> str:
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=prompt)
    except Exception as error:  # a template raises whatever it likes
        raise InputError(
            "template.unusable",
            tr("the model's chat template fails on a plain conversation: {reason}", reason=error),
            tr("take the model's original chat_template.jinja"),
        ) from error
    return str(text)


def _writes(family: Family, head: str, between: str) -> bool:
    # a first turn may hold more than later ones (a default system turn inside `[INST]`)
    if not family.between:
        return not head.strip() and not between.strip()
    return head.endswith(family.before) and between.strip() == family.between.strip()


def _system_of(head: str, before: str) -> str:
    """The readable part of what a template writes before the first question."""
    text = head.removesuffix(before)
    plain = re.sub(r"<[|｜][^>]*[|｜]>|<[a-z_]+>|\[[A-Z]+\]", "", text).strip()
    return plain.removeprefix("system").strip()


def _notes(name: str, family: Family, found: TemplateFinding) -> tuple[Text, ...]:
    if name in family.thinking and not found.thinks:
        return (tr("`{name}` is for models that think; this model's template does not", name=name),)
    if found.thinks and family.thinking and name not in family.thinking:
        return (
            tr("the model's template knows thoughts, `{name}` does not: see `thinking`", name=name),
        )
    return ()
