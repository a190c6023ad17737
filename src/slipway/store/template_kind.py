"""Which language a TEMPLATE is written in: Jinja, which the engine renders, or Go's."""

from __future__ import annotations

import re

from slipway.core.errors import InputError
from slipway.core.i18n import tr
from slipway.store.gotemplate import TemplateError, parse

_GO = re.compile(r"{{-?\s*(\.|if\s|range\s|end\b|else\b|with\s|template\s|block\s|define\s|\$|/\*)")


def is_go_template(template: str) -> bool:
    """Whether a chat template is in Go's text/template language (Ollama's)."""
    return _GO.search(template) is not None


def check_template(template: str, where: str) -> None:
    """Refuse a Go template that cannot be read; Jinja is looked at when it is used.

    Raises:
        InputError: naming file and line.
    """
    if not is_go_template(template):
        return
    try:
        parse(template)
    except TemplateError as error:
        raise InputError(
            "modelfile.go_template",
            tr(
                "{where}: TEMPLATE, its line {line}: {reason}",
                where=where,
                line=error.line,
                reason=error.reason,
            ),
            tr("correct TEMPLATE in the Modelfile, or delete it to use the GGUF's own"),
        ) from error


def abilities(template: str) -> list[str]:
    """What a chat template lets a model do beside completing: tools, thinking, insert."""
    if is_go_template(template):
        try:
            return parse(template).capabilities
        except TemplateError:
            return []
    found = []
    if "tools" in template or "tool_call" in template:
        found.append("tools")
    if "<think>" in template and "</think>" in template:
        found.append("thinking")
    return found
