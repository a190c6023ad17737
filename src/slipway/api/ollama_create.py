"""POST /api/create: a model from another one, or from GGUF or safetensors files sent as blobs."""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from slipway.api import making
from slipway.api.daemon import Daemon
from slipway.api.errors import ollama_error
from slipway.api.ollama import NDJSON, json_response
from slipway.api.schemas import CreateBody, read_body
from slipway.api.streaming import StreamedResponse, until_gone
from slipway.core.errors import InputError, SlipwayError, UsageError
from slipway.core.gguf import read_gguf
from slipway.core.i18n import tr
from slipway.core.paths import Home
from slipway.export.toolchain import require_toolchain
from slipway.store import resolve_model
from slipway.store.create import create_parsed
from slipway.store.manifests import ManifestStore
from slipway.store.modelfile import ROLES, Modelfile
from slipway.store.names import ModelName
from slipway.store.parameters import PARAMETERS, check_value

Line = dict[str, Any]

_FLOATS = ("F32", "F16", "BF16")
_PART = re.compile(r"-00001-of-\d{5}\.gguf$")


async def create(request: Request) -> Response:
    """POST /api/create."""
    daemon: Daemon = request.app.state.daemon
    body = await read_body(request, CreateBody)
    lines = _create(daemon.home, body)
    if not body.stream:
        return json_response(await until_gone(request, last_line(lines)))
    return StreamedResponse(told(lines), NDJSON)


async def last_line(lines: AsyncGenerator[Line, None]) -> Line:
    """The last line of some work, for those who do not want to see its progress."""
    last: Line = {}
    async with aclosing(lines):
        async for line in lines:
            last = line
    return last


async def told(lines: AsyncGenerator[Line, None]) -> AsyncGenerator[bytes, None]:
    """The lines; an error before the first is raised, a later one is a line."""
    begun = False
    async with aclosing(lines):
        try:
            async for line in lines:
                begun = True
                yield orjson.dumps(line) + b"\n"
        except SlipwayError as error:
            if not begun:
                raise
            yield orjson.dumps(ollama_error(error)) + b"\n"


@dataclass(frozen=True)
class _Made:
    """What the files have become."""

    gguf: Path
    projector: Path | None = None


async def _create(home: Home, body: CreateBody) -> AsyncGenerator[Line, None]:
    name = body.wanted
    if not name:
        raise UsageError("request.no_model", tr("model is required"))
    ModelName.parse(name)
    if not body.from_ and not body.files:
        raise UsageError("create.nothing", tr("neither 'from' or 'files' was specified"))
    is_folder = all(name.endswith((".json", ".safetensors")) for name in body.adapters)
    if len(body.adapters) > 1 and not is_folder:
        raise UsageError("create.adapters", tr("only one adapter is currently supported"))
    if not body.files:  # only a name of the store: no path of this machine is taken
        await asyncio.to_thread(resolve_model, body.from_, home=home)
    blobs = ManifestStore(home.models).blobs
    home.models.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".create-", dir=home.models) as folder:
        work = Path(folder)
        made: _Made | None = None
        source = body.from_
        if body.files:
            paths = making.laid_out(body.files, work / "files", blobs)
            async with aclosing(_from_files(paths, work, home)) as steps:
                async for step in steps:
                    if isinstance(step, _Made):
                        made = step
                    else:
                        yield step
            assert made is not None
            source = str(made.gguf)
        if body.wanted_type:
            yield {"status": f"quantizing {_type_of(home, source)} model to {body.wanted_type}"}
            source = await _quantised(home, source, body.wanted_type, work)
        adapter = None
        if body.adapters:
            yield {"status": "converting adapter"}
            adapter = await _adapter(body, work, home)
        parsed = _modelfile(body, source, adapter, made.projector if made else None)
        there = await asyncio.to_thread(lambda: {path.name for path in blobs.folder.glob("*")})
        model = await asyncio.to_thread(create_parsed, name, parsed, work, home=home)
        for layer in model.layers:
            known = layer.digest.replace(":", "-") in there
            word = "using existing layer" if known else "creating new layer"
            yield {"status": f"{word} {layer.digest}"}
        yield {"status": "writing manifest"}
        yield {"status": "success"}


async def _from_files(
    paths: list[Path], work: Path, home: Home
) -> AsyncGenerator[Line | _Made, None]:
    """Progress, then what the files have become."""
    ggufs = [path for path in paths if _is_gguf(path)]
    if ggufs:
        yield {"status": "parsing GGUF"}
        first = next((path for path in ggufs if _PART.search(path.name)), None)
        if first is not None and len(ggufs) > 1:
            whole = work / "whole.gguf"
            await making.slipway("gguf", "join", first, whole, home=home)
            yield _Made(whole)
            return
        headers = await asyncio.to_thread(lambda: {path: read_gguf(path) for path in ggufs})
        projectors = [path for path, header in headers.items() if header.architecture == "clip"]
        models = [path for path in ggufs if path not in projectors]
        if len(models) != 1 or len(projectors) > 1:
            raise InputError(
                "create.several_models",
                tr("{count} models were sent; a model has one GGUF", count=len(models)),
            )
        yield _Made(models[0].resolve(), projectors[0].resolve() if projectors else None)
        return
    if not any(path.name == "config.json" for path in paths):
        raise InputError(
            "create.unknown_files",
            tr("the files are neither a GGUF nor a model folder with config.json and safetensors"),
        )
    yield {"status": "converting model"}
    out = work / "converted"
    folder = next(path for path in paths if path.name == "config.json").parent
    await making.slipway("convert", folder, "--outtype", "auto", "-o", out, home=home)
    yield _Made(out / "model.gguf")


def _is_gguf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


def _gguf_of(home: Home, source: str) -> Path:
    path = Path(source)
    return path if path.is_absolute() else resolve_model(source, home=home).gguf_path


def _type_of(home: Home, source: str) -> str:
    kind = read_gguf(_gguf_of(home, source)).file_type
    if kind not in _FLOATS:
        raise UsageError(
            "create.quantised_already",
            tr("quantization is only supported for F16, BF16 and F32 models"),
        )
    return kind


async def _quantised(home: Home, source: str, kind: str, work: Path) -> str:
    from slipway.export.quantise import check_types, quant_types

    toolchain = require_toolchain(home)
    (known,) = check_types([kind], await asyncio.to_thread(quant_types, toolchain))
    target = work / f"{known}.gguf"
    program = toolchain.program("llama-quantize")
    await making.run([program, _gguf_of(home, source), target, known], home)
    return str(target)


async def _adapter(body: CreateBody, work: Path, home: Home) -> Path:
    """A GGUF adapter from what was sent as `adapters`."""
    blobs = ManifestStore(home.models).blobs
    paths = making.laid_out(body.adapters, work / "adapter", blobs)
    if _is_gguf(paths[0]):
        return paths[0].resolve()
    out = work / "adapter-gguf"
    line: list[str | Path] = ["convert", work / "adapter", "--adapter", "-o", out]
    if body.files and (work / "files" / "config.json").is_file():
        line += ["--base", work / "files"]
    await making.slipway(*line, home=home)
    return out / "adapter.gguf"


def _modelfile(
    body: CreateBody, source: str, adapter: Path | None, projector: Path | None
) -> Modelfile:
    """The request as the Modelfile that it stands for."""
    parameters = {}
    for name, value in body.parameters.items():
        known = PARAMETERS.get(name)
        if known is None:
            raise UsageError("create.parameter", tr("unknown parameter `{name}`", name=name))
        if known.dead:
            continue
        try:
            parameters[name] = check_value(known.kind, value)
        except ValueError:
            raise UsageError(
                "request.bad_option",
                tr('option "{name}" must be of type {kind}', name=name, kind=known.kind),
            ) from None
    for message in body.messages:
        if message.role.lower() not in ROLES:
            names = ", ".join(ROLES)
            raise UsageError("create.role", tr("message role must be one of {names}", names=names))
    licenses = [body.license] if isinstance(body.license, str) else body.license
    accepted = {"renderer": body.renderer, "parser": body.parser, "requires": body.requires}
    return Modelfile(
        from_=source,
        from_line=0,
        parameters=parameters,
        template=body.template,
        system=body.system,
        messages=tuple({"role": m.role.lower(), "content": m.content} for m in body.messages),
        licenses=tuple(licenses),
        adapters=((str(adapter), 0),) if adapter else (),
        accepted={name: value for name, value in accepted.items() if value},
        projector=projector,
        source="request",
    )


async def refused(request: Request) -> Response:
    """Ollama's routes of its accounts and cloud, which do not exist here."""
    error = UsageError(
        "request.no_account",
        tr("{path}: there are no accounts and no cloud here", path=request.url.path),
    )
    error.http_status = 403
    return json_response(ollama_error(error), 403)


async def status(request: Request) -> Response:
    """GET /api/status: nothing here goes to a cloud."""
    return json_response({"cloud": {"disabled": True, "source": "slipway"}})
