"""Options that the commands on datasets share, and what they name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from slipway.cli import output
from slipway.cli.fetch_line import fetch_shown
from slipway.core.i18n import tr

if TYPE_CHECKING:
    from slipway.datasets import DataSource

Command = TypeVar("Command", bound=Callable[..., Any])
_MANY_ROWS = 5000

path_argument = click.argument("path", type=click.Path(path_type=Path))
registry_option = click.option(
    "--dataset-dir",
    metavar="FOLDER",
    help=str(
        tr(
            "Folder of a dataset_info.json in which PATH is a name; ONLINE: PATH is a dataset on "
            "a hub."
        )
    ),
)
model_option = click.option(
    "--model",
    "--base",
    type=click.Path(path_type=Path),
    help=str(tr("Model (folder or pulled base) whose tokenizer and template count the tokens.")),
)
cutoff_option = click.option(
    "--cutoff-len",
    type=click.IntRange(min=1),
    default=1024,
    show_default=True,
    help=str(tr("Tokens at which training would cut a row.")),
)


def dataset_options(command: Command) -> Command:
    """PATH, --dataset-dir, --model and --cutoff-len."""
    for option in (cutoff_option, model_option, registry_option, path_argument):
        command = option(command)
    return command


def source_named(path: Path, dataset_dir: str | None) -> DataSource:
    """The dataset that PATH and --dataset-dir name, fetched if it lies on a hub."""
    from slipway.datasets import DataSource

    source = DataSource(path=str(path), info=dataset_dir)
    fetch_shown([source])
    return source


def tokenizer_for(source: DataSource, model: Path | None, template: str | None = None) -> Any:
    """The tokenizer of a model folder or of a pulled base by its name; None without a model.

    It needs a chat template unless the dataset is plain text.
    """
    if model is None:
        return None
    from slipway.core.paths import Home
    from slipway.datasets import load_tokenizer
    from slipway.datasets.opened import Problems, good_rows, open_splits

    first = next(good_rows(open_splits(source)["train"], Problems(0)), None)
    pulled = Home.current().bases / model
    return load_tokenizer(
        pulled if not model.exists() and pulled.is_dir() else model,
        template,
        chat=first is None or first.kind != "text",
    )


class RowProgress:
    """A line that tells how many rows were looked at, once there are many."""

    def __init__(self) -> None:
        self._line = output.LiveLine()

    def __call__(self, rows: int) -> None:
        if rows >= _MANY_ROWS:
            self._line.show(tr("{rows} rows looked at", rows=f"{rows:,}"))

    def done(self) -> None:
        """End the line."""
        self._line.done()
