"""`slipway pull NAME`: a base model into the home."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import click

from slipway.cli import output
from slipway.core.i18n import tr


@click.command(
    help=str(
        tr(
            "Get a base model. NAME is `starter`, `starter-embed`, `ms://org/repo` (ModelScope), "
            "`hf://org/repo` (Hugging Face), `org/repo`, or a local folder."
        )
    )
)
@click.argument("name")
@click.option("--offline", is_flag=True, help=str(tr("Never touch the network.")))
@click.option("--verify", is_flag=True, help=str(tr("Digest every file of a model already there.")))
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def pull(name: str, offline: bool, verify: bool, as_json: bool) -> None:
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


@dataclass
class _Bar:
    """Bytes, share, speed and time left on one line."""

    line: output.LiveLine = field(default_factory=output.LiveLine)
    started: float = field(default_factory=time.monotonic)
    first: int | None = None

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
        self.line.show(text)
