"""`slipway data preview`: one row raw, rendered, and as tokens with what is learned marked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from slipway.cli import output
from slipway.cli.data_options import dataset_options, source_named, tokenizer_for
from slipway.cli.masked import green, masked
from slipway.core.errors import UsageError
from slipway.core.i18n import tr

if TYPE_CHECKING:
    from slipway.datasets.preview import DocumentView, Preview, Wanted


@click.command(
    help=str(
        tr(
            "Show a row as it stands in the file, as the chat template renders it, and as tokens "
            "with what is learned marked."
        )
    )
)
@dataset_options
@click.option(
    "--row",
    metavar="[FILE:]LINE",
    help=str(tr("The row by the line it begins in, as `data check` names it. [default: first]")),
)
@click.option("--id", "name", help=str(tr("The row by its id.")))
@click.option(
    "--split",
    type=click.Choice(["train", "heldout"]),
    default="train",
    show_default=True,
    help=str(tr("The split that the row is in.")),
)
@click.option("--template", help=str(tr("Name of the chat template that the model must have.")))
@click.option(
    "--thinking",
    type=click.Choice(["keep", "on", "off"]),
    default="keep",
    show_default=True,
    help=str(tr("What is learned of thoughts, as in a recipe.")),
)
@click.option("--mask-history", is_flag=True, help=str(tr("Only the last answer is learned.")))
@click.option("--train-on-prompt", is_flag=True, help=str(tr("Everything is learned.")))
@click.option("--tokens", is_flag=True, help=str(tr("List every token with its number.")))
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def preview(
    path: Path,
    dataset_dir: str | None,
    model: Path | None,
    cutoff_len: int,
    row: str | None,
    name: str | None,
    split: str,
    template: str | None,
    thinking: str,
    mask_history: bool,
    train_on_prompt: bool,
    tokens: bool,
    as_json: bool,
) -> None:
    from slipway.datasets import EncodeRule
    from slipway.datasets.preview import preview_row

    rule = EncodeRule(
        cutoff_len,
        train_on_prompt=train_on_prompt,
        mask_history=mask_history,
        thinking=thinking,  # type: ignore[arg-type]  # click holds it to the choices
    )
    source = source_named(path, dataset_dir)
    shown = preview_row(
        source,
        "heldout" if split == "heldout" else "train",
        _wanted(row, name),
        tokenizer_for(source, model, template),
        rule,
    )
    if as_json:
        output.print_json(shown.as_json())
    else:
        _show(shown, cutoff_len, tokens=tokens, model=model is not None)


def _wanted(row: str | None, name: str | None) -> Wanted:
    from slipway.datasets.preview import Wanted

    if row is None or name is not None:
        return Wanted(id=name)
    file, _, line = row.rpartition(":")
    if not line.isdigit():
        raise UsageError(
            "data.row", tr("--row needs a line, such as 12 or train.jsonl:12, not {row}", row=row)
        )
    return Wanted(int(line), file or None)


def _show(shown: Preview, cutoff_len: int, *, tokens: bool, model: bool) -> None:
    sample = shown.sample
    print(tr("row {row}, id {id}:", row=f"{sample.file.name}:{sample.line}", id=sample.id))
    print(json.dumps(shown.raw, ensure_ascii=False, indent=2, default=str))
    if not model:
        output.note(tr("give --model to see the row rendered and as tokens"))
        return
    for document in shown.documents:
        print()
        print(tr("{id}, rendered:", id=document.id))
        print(document.rendered)
        print()
        print(
            tr(
                "{id}, {tokens} tokens, {learned} of them ⟦learned⟧:",
                id=document.id,
                tokens=len(document.tokens),
                learned=document.learned,
            )
        )
        if tokens:
            _list_tokens(document)
        else:
            print(masked(document.pieces))
    if shown.truncated:
        print(
            tr(
                "the row has {tokens} tokens and was cut to {cutoff}",
                tokens=shown.whole_tokens,
                cutoff=cutoff_len,
            )
        )
    if shown.dropped:
        print(tr("nothing to learn is left of the row, or of a document of it"))


def _list_tokens(document: DocumentView) -> None:
    for number, token in enumerate(document.tokens):
        text = token.text.replace("\n", "↵")
        text = f"⟦{text}⟧" if token.learned else text
        line = f"{number:>6} {token.id:>8}  {text}"
        print(green(line) if token.learned else line)
