"""What looks wrong with a GGUF that somebody else made, told when it is imported.

A chat model without a template, or with one that leaves the user's words out, answers nonsense and
gives no error; so does one whose special tokens are not what the vocabulary says. Nothing here
refuses the file: what is found is told, and kept in the model's lineage.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from slipway.core.gguf import GgufHeader
from slipway.core.i18n import Text, tr
from slipway.store.gguf_facts import faults, special_tokens
from slipway.store.template_kind import is_go_template

Code = Literal[
    "no_template",
    "template_syntax",
    "template_fails",
    "template_drops_user",
    "no_end_token",
    "no_context_length",
    "fault",
]

_USER = "the words of the user 7351"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that looks wrong; `detail` completes its sentence, in English."""

    code: Code
    detail: str = ""

    @property
    def text(self) -> Text:
        """The finding for people."""
        detail = self.detail
        match self.code:
            case "no_template":
                return tr(
                    "the GGUF has no chat template: chats will be rendered in a general form that "
                    "the model may not know; give it one with TEMPLATE in a Modelfile"
                )
            case "template_syntax":
                return tr("the chat template is not valid Jinja: {detail}", detail=detail)
            case "template_fails":
                return tr("the chat template fails on a plain question: {detail}", detail=detail)
            case "template_drops_user":
                return tr("the chat template leaves out what the user says")
            case "no_end_token":
                return tr("the GGUF names no token that ends an answer: it may never stop")
            case "no_context_length":
                return tr("the GGUF does not say how long a context the model was trained for")
            case _:
                return tr("the GGUF looks damaged: {detail}", detail=detail)

    def as_json(self) -> dict[str, str]:
        """The finding for the lineage layer."""
        return {"code": self.code, "detail": self.detail}


def from_json(value: dict[str, Any]) -> Finding:
    """The finding that `Finding.as_json` wrote."""
    return Finding(value["code"], str(value.get("detail", "")))


def check_import(header: GgufHeader, template: str | None = None) -> list[Finding]:
    """What looks wrong with a GGUF.

    Args:
        template: what TEMPLATE of the Modelfile says instead of the GGUF's own.
    """
    return list(_findings(header, template))


def _findings(header: GgufHeader, template: str | None) -> Iterator[Finding]:
    for fault in faults(header):
        yield Finding("fault", fault)
    if not header.context_length:
        yield Finding("no_context_length")
    if header.is_embedding:
        return
    ends = {role for role in special_tokens(header) if role in ("eos", "eot", "eom")}
    if not ends:
        yield Finding("no_end_token")
    used = template if template is not None else header.chat_template
    if not used:
        yield Finding("no_template")
    elif not is_go_template(used):
        yield from _template_findings(used)


def _template_findings(template: str) -> Iterator[Finding]:
    """Render one question, in a sandbox: a template of a stranger is a stranger's program."""
    from jinja2 import TemplateError, TemplateSyntaxError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str = "") -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals |= {"raise_exception": refuse, "strftime_now": lambda form: form}
    environment.filters["tojson"] = lambda value, **kwargs: str(value)
    try:
        compiled = environment.from_string(template)
    except TemplateSyntaxError as error:
        yield Finding("template_syntax", f"line {error.lineno}: {error.message}")
        return
    try:
        rendered = compiled.render(
            messages=[{"role": "user", "content": _USER}],
            add_generation_prompt=True,
            bos_token="<s>",
            eos_token="</s>",
            tools=None,
        )
    except Exception as error:  # a template raises whatever it likes
        yield Finding("template_fails", str(error)[:200])
        return
    if _USER not in rendered:
        yield Finding("template_drops_user")
