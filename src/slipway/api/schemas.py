"""Request bodies of both faces. Unknown fields are ignored, as the originals do."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from starlette.requests import Request

from slipway.core.errors import UsageError
from slipway.core.i18n import tr

MAX_BODY_BYTES = 100 << 20

KeepAlive = str | int | float | None


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: Any) -> Any:
        """Ollama decodes null as if the field had not been sent, and its clients rely on it."""
        if isinstance(value, dict):
            return {name: field for name, field in value.items() if field is not None}
        return value


class Message(_Body):
    """A chat message in Ollama's shape."""

    role: str
    content: str = ""
    thinking: str = ""
    images: list[str] | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class _Generating(_Body):
    model: str = ""
    stream: bool = True
    format: str | dict[str, Any] | None = None
    keep_alive: KeepAlive = None
    options: dict[str, Any] | None = None
    think: bool | str | None = None
    truncate: bool = False
    shift: bool | None = None
    debug_render_only: bool = Field(default=False, alias="_debug_render_only")
    logprobs: bool = False
    top_logprobs: int = Field(default=0, ge=0, le=20)


class ChatBody(_Generating):
    """POST /api/chat."""

    messages: list[Message] | None = None
    tools: list[dict[str, Any]] | None = None


class GenerateBody(_Generating):
    """POST /api/generate."""

    prompt: str = ""
    suffix: str = ""
    system: str | None = None
    template: str | None = None
    context: list[int] | None = None
    raw: bool = False
    images: list[str] | None = None


class EmbedBody(_Body):
    """POST /api/embed."""

    model: str = ""
    input: str | list[str] | None = None
    truncate: bool | None = None
    dimensions: int | None = Field(default=None, ge=1)
    keep_alive: KeepAlive = None
    options: dict[str, Any] | None = None


class LegacyEmbedBody(_Body):
    """POST /api/embeddings."""

    model: str = ""
    prompt: str = ""
    keep_alive: KeepAlive = None
    options: dict[str, Any] | None = None


class CreateBody(_Body):
    """POST /api/create; `name` and `quantization` are the older names of two fields."""

    model: str = ""
    name: str = ""
    stream: bool = True
    from_: str = Field(default="", alias="from")
    files: dict[str, str] = Field(default_factory=dict)
    adapters: dict[str, str] = Field(default_factory=dict)
    template: str | None = None
    license: str | list[str] = Field(default_factory=list)
    system: str | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)
    messages: list[Message] = Field(default_factory=list)
    quantize: str = ""
    quantization: str = ""
    renderer: str = ""
    parser: str = ""
    requires: str = ""

    @property
    def wanted(self) -> str:
        """The name that was given."""
        return self.model or self.name

    @property
    def wanted_type(self) -> str:
        """The type to quantise to, or empty."""
        return (self.quantize or self.quantization).upper()


class RerankBody(_Body):
    """POST /v1/rerank, in the fields that Jina's and Cohere's clients share."""

    model: str = ""
    query: str = ""
    documents: list[str | dict[str, Any]] = Field(default_factory=list)
    top_n: int | None = Field(default=None, ge=1)
    return_documents: bool = False
    keep_alive: KeepAlive = None
    options: dict[str, Any] | None = None


class TokenizeBody(_Body):
    """POST /api/tokenize; the names of llama-server's fields."""

    model: str = ""
    content: str = ""
    add_special: bool = False
    parse_special: bool = True
    with_pieces: bool = False
    keep_alive: KeepAlive = None


class DetokenizeBody(_Body):
    """POST /api/detokenize."""

    model: str = ""
    tokens: list[int] = Field(default_factory=list)
    keep_alive: KeepAlive = None


class NameBody(_Body):
    """POST /api/show, DELETE /api/delete: `model`, or the older `name`."""

    model: str = ""
    name: str = ""
    verbose: bool = False

    @property
    def wanted(self) -> str:
        """The name that was given."""
        return self.model or self.name


class TransferBody(_Body):
    """POST /api/pull and /api/push: `model`, or the older `name`."""

    model: str = ""
    name: str = ""
    insecure: bool = False
    stream: bool = True

    @property
    def wanted(self) -> str:
        """The name that was given."""
        return self.model or self.name


class CopyBody(_Body):
    """POST /api/copy."""

    source: str = ""
    destination: str = ""


class StreamOptions(_Body):
    """`stream_options`."""

    include_usage: bool = False


class OpenAIBody(_Body):
    """What /v1/chat/completions and /v1/completions share; Ollama's own fields may be added."""

    model: str = ""
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, ge=0, le=1)
    seed: int | None = None
    stop: str | list[str] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    truncate: bool = False
    keep_alive: KeepAlive = None
    options: dict[str, Any] | None = None

    def named_options(self) -> dict[str, Any]:
        """The sampling fields in Ollama's names, over the `options` that came along."""
        named = {
            "num_predict": self.max_completion_tokens or self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.seed,
            "stop": self.stop,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
        }
        return {**(self.options or {}), **{k: v for k, v in named.items() if v is not None}}


class ChatCompletionBody(OpenAIBody):
    """POST /v1/chat/completions."""

    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    reasoning: dict[str, Any] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)


class CompletionBody(OpenAIBody):
    """POST /v1/completions."""

    prompt: str | list[int] | list[str] | list[list[int]] | None = None
    suffix: str | None = None
    echo: bool = False
    best_of: int | None = None
    logprobs: int | None = Field(default=None, ge=0, le=20)


class EmbeddingBody(_Body):
    """POST /v1/embeddings."""

    model: str = ""
    input: str | list[str] | list[int] | list[list[int]] | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(default=None, ge=1)
    truncate: bool = False
    keep_alive: KeepAlive = None
    options: dict[str, Any] | None = None


BodyT = TypeVar("BodyT", bound=BaseModel)


async def read_body(request: Request, shape: type[BodyT]) -> BodyT:
    """Read and check a JSON body.

    Raises:
        UsageError: no body, no JSON, too long, or a field of the wrong kind; the message names it.
    """
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_BODY_BYTES:
            error = UsageError("request.too_large", tr("the request body is too large"))
            error.http_status = 413
            raise error
    if not data:
        raise UsageError("request.no_body", tr("missing request body"))
    try:
        value = orjson.loads(bytes(data))
    except orjson.JSONDecodeError as error:
        raise UsageError(
            "request.bad_json", tr("the request body is not valid JSON: {reason}", reason=error)
        ) from error
    try:
        return shape.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        raise UsageError(
            "request.bad_field", tr("field `{field}`: {reason}", field=where, reason=first["msg"])
        ) from error
