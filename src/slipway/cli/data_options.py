"""Options that the commands on datasets share, and what they name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from slipway.core.i18n import tr

if TYPE_CHECKING:
    from slipway.datasets import DataSource

Command = TypeVar("Command", bound=Callable[..., Any])

path_argument = click.argument("path", type=click.Path(path_type=Path))
info_option = click.option(
    "--info",
    type=click.Path(path_type=Path),
    help=str(tr("Folder of a dataset_info.json; PATH is then a name in it.")),
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
    """PATH, --info, --model and --cutoff-len."""
    for option in (cutoff_option, model_option, info_option, path_argument):
        command = option(command)
    return command


def source_named(path: Path, info: Path | None) -> DataSource:
    """The dataset that PATH and --info name."""
    from slipway.datasets.opened import source_of

    return source_of(path, info)


def load_tokenizer_named(model: Path) -> Any:
    """The tokenizer of a model folder, or of a pulled base by its name."""
    from slipway.core.paths import Home
    from slipway.datasets import load_tokenizer

    pulled = Home.current().bases / model
    return load_tokenizer(pulled if not model.exists() and pulled.is_dir() else model)
