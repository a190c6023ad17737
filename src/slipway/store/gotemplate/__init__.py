"""Go's text/template, as far as Ollama's TEMPLATEs use it: see `template` for the public face."""

from __future__ import annotations

from slipway.store.gotemplate.nodes import TemplateError
from slipway.store.gotemplate.template import Template, parse

__all__ = ["Template", "TemplateError", "parse"]
