"""`slipway pull NAME`: a base model into the home, or a model of a registry into the store."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from slipway.cli import output
from slipway.core.i18n import Text, tr


@click.command(
    help=str(
        tr(
            "Get a model. For a base model to train, NAME is `starter`, `starter-embed`, "
            "`ms://org/repo` (ModelScope), `hf://org/repo` (Hugging Face), `org/repo`, or a local "
            "folder. For a model to run, NAME is `model:tag`, `host/namespace/model:tag` or "
            "`hf.co/user/repo:quant`."
        )
    )
)
@click.argument("name")
@click.option("--offline", is_flag=True, help=str(tr("Never touch the network.")))
@click.option("--verify", is_flag=True, help=str(tr("Digest every file of a model already there.")))
@click.option(
    "--insecure", is_flag=True, help=str(tr("Accept plain HTTP and unknown certificates."))
)
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def pull(name: str, offline: bool, verify: bool, insecure: bool, as_json: bool) -> None:
    if is_registry_name(name):
        from slipway.core.errors import UsageError
        from slipway.core.paths import Home
        from slipway.store.registry import pull_model

        if offline or verify:
            raise UsageError(
                "pull.options",
                tr("`--offline` and `--verify` are for base models"),
                tr("check stored models with `slipway store check`"),
            )
        transfer(pull_model(name, home=Home.current(), insecure=insecure), name, as_json)
        return
    from slipway.core.manifest import read_manifest
    from slipway.core.paths import Home
    from slipway.store.pull import pull_base

    bar = _Bar()
    try:
        folder = pull_base(
            name, home=Home.current(), on_progress=bar.show, offline=offline, verify=verify
        )
    finally:
        bar.line.done()
    manifest = read_manifest(folder, kind="base")
    size = sum(entry.size for entry in manifest.files)
    if as_json:
        output.print_json(
            {
                "name": name,
                "path": str(folder),
                "digest": manifest.digest,
                "size_bytes": size,
                "notes": {k: v for k, v in manifest.notes.items() if k != "marks"},
            }
        )
        return
    output.note(
        tr(
            "{name} is ready: {size}, {digest}",
            name=name,
            size=output.size(size),
            digest=manifest.digest[:19],
        )
    )
    print(folder)


def is_registry_name(name: str) -> bool:
    """Whether a name is a registry's model rather than a base model.

    `org/repo` without a tag is a hub's repository; a tag, a host or a single word, unless it looks
    like a slip of the pen for a base model's name, means a registry.
    """
    from slipway.core.errors import nearest
    from slipway.store.pull.wheels import WHEELS

    if name.startswith((".", "/", "~")) or name in WHEELS or Path(name).is_dir():
        return False
    scheme, mark, rest = name.rpartition("://")
    if mark and scheme not in ("hf", "ms"):
        return True
    if ":" in rest or rest.count("/") > 1:
        return True
    return not mark and "/" not in rest and not nearest(name, WHEELS)


def transfer(lines: Iterator[dict[str, Any]], name: str, as_json: bool) -> None:
    """Show a pull or push as it goes, and how it ended."""
    from slipway.core.paths import Home
    from slipway.store import resolve_model
    from slipway.store.registry import registry_name

    bar: _Bar | None = None
    shown: dict[str, Any] = {}
    words = _words()
    try:
        for line in lines:
            if bar and line.get("digest") != shown.get("digest"):
                bar.line.done(f"{bar.head}{output.size(shown['total'])}")
                bar = None
            status, _, short = line["status"].rpartition(" ")
            if "total" not in line:
                if not as_json:
                    output.note(words.get(line["status"], line["status"]))
                continue
            if bar is None:
                bar = _Bar(head=f"{words.get(status, status)} {short}  ")
            shown = line
            if "completed" in line:
                bar.show(line["completed"], line["total"])
    finally:
        if bar:
            bar.line.done()
    if as_json:
        model = resolve_model(registry_name(name), home=Home.current())
        output.print_json(
            {
                "name": model.name.display,
                "digest": model.digest,
                "size_bytes": model.size,
            }
        )


def _words() -> dict[str, Text]:
    """The lines of transfers, which are Ollama's, in the reader's language."""
    return {
        "pulling manifest": tr("pulling manifest"),
        "pulling": tr("pulling"),
        "verifying sha256 digest": tr("verifying sha256 digest"),
        "writing manifest": tr("writing manifest"),
        "retrieving manifest": tr("retrieving manifest"),
        "pushing": tr("pushing"),
        "pushing manifest": tr("pushing manifest"),
        "success": tr("success"),
    }


@dataclass
class _Bar:
    """Bytes, share, speed and time left on one line."""

    line: output.LiveLine = field(default_factory=output.LiveLine)
    started: float = field(default_factory=time.monotonic)
    first: int | None = None
    head: str = ""

    def show(self, done: int, total: int | None) -> None:
        if self.first is None:  # what an earlier pull left does not count as speed
            self.first = done
        rate = (done - self.first) / max(time.monotonic() - self.started, 0.1)
        if not total:
            text = tr("{done}, {rate}/s", done=output.size(done), rate=output.size(rate))
        else:
            left = output.duration((total - done) / rate) if rate > 1 else "?"
            text = tr(
                "{done} of {total} ({percent} %), {rate}/s, {left} left",
                done=output.size(done),
                total=output.size(total),
                percent=100 * done // total,
                rate=output.size(rate),
                left=left,
            )
        self.line.show(f"{self.head}{text}")
