"""Model names: `[scheme://][host/][namespace/]model[:tag]`, as Ollama's clients write them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from slipway.core.errors import UsageError
from slipway.core.i18n import tr

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"

_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}")
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://")


@dataclass(frozen=True, slots=True)
class ModelName:
    """A complete name; every part has passed the grammar, so it is safe as a path below the store.

    Attributes:
        host: registry host, may carry a port.
        namespace: owner on that registry.
        model: the model.
        tag: its variant.
    """

    host: str
    namespace: str
    model: str
    tag: str

    @classmethod
    def parse(cls, text: str) -> ModelName:
        """Read a name, filling the parts left out with Ollama's defaults.

        Raises:
            UsageError: a part is empty, too long, or has a character that names may not have.
        """
        rest = _SCHEME.sub("", text.strip(), count=1)
        head, slash, last = rest.rpartition("/")
        model, colon, tag = last.partition(":")
        parts = head.split("/") if slash else []
        if len(parts) > 2:
            raise _bad(text, "host/namespace/model")
        namespace = parts[-1] if parts else DEFAULT_NAMESPACE
        host = parts[0] if len(parts) == 2 else DEFAULT_HOST
        name = cls(host, namespace, model, tag if colon else DEFAULT_TAG)
        for pattern, value, part in (
            (_HOST, name.host, "host"),
            (_NAMESPACE, name.namespace, "namespace"),
            (_PART, name.model, "model"),
            (_PART, name.tag, "tag"),
        ):
            if not pattern.fullmatch(value):
                raise _bad(text, part)
        return name

    @property
    def display(self) -> str:
        """The short form: default host and namespace hidden, the tag always there."""
        if self.host != DEFAULT_HOST:
            return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"
        if self.namespace != DEFAULT_NAMESPACE:
            return f"{self.namespace}/{self.model}:{self.tag}"
        return f"{self.model}:{self.tag}"

    @property
    def path(self) -> PurePosixPath:
        """Where the manifest lies below `manifests/`."""
        return PurePosixPath(self.host, self.namespace, self.model, self.tag)

    @property
    def folded(self) -> tuple[str, str, str, str]:
        """The key under which names that differ only in case are one."""
        return (
            self.host.lower(),
            self.namespace.lower(),
            self.model.lower(),
            self.tag.lower(),
        )

    def __str__(self) -> str:
        return self.display


def _bad(text: str, part: str) -> UsageError:
    return UsageError(
        "model.bad_name",
        tr("`{name}` is not a valid model name (see its {part})", name=text, part=part),
        tr("a name looks like `shop:q4` or `team/shop:q4`: letters, digits, `_`, `-`, `.`"),
    )
