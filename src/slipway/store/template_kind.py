"""Which language a TEMPLATE is written in: Jinja is used as it is, Go's is refused for now."""

from __future__ import annotations

import re

from slipway.core.errors import InputError
from slipway.core.i18n import tr

_GO = re.compile(r"{{-?\s*(\.|if\s|range\s|end\b|else\b|with\s|template\s|block\s|define\s|\$)")


def is_go_template(template: str) -> bool:
    """Whether a chat template is in Go's text/template language (Ollama's)."""
    return _GO.search(template) is not None


def check_template(template: str, where: str) -> None:
    """Refuse a template that could not be rendered exactly.

    Raises:
        InputError: it is in Go's template language.
    """
    if is_go_template(template):
        raise InputError(
            "modelfile.go_template",
            tr("{where}: templates in Go's language are not supported yet", where=where),
            tr("delete TEMPLATE to use the template inside the GGUF, or write it in Jinja"),
        )
