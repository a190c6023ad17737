"""Datasets into samples: read, recognise the format, hold every row to the rules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from slipway.core.errors import InputError, NotFoundError
from slipway.core.files import sha256_file, sha256_json
from slipway.core.i18n import Text, tr
from slipway.datasets.formats import KEYS, PARSERS, FieldProblems, Parsed, detect
from slipway.datasets.model import Format, RowProblem, Sample, Split
from slipway.datasets.rows import RawRow, read_rows, split_files


@dataclass(frozen=True, slots=True)
class Loaded:
    """One file read whole: its good rows and everything wrong with the others.

    Attributes:
        unused_keys: top-level keys that the format does not use -> how many rows have them.
    """

    file: Path
    format: Format | None
    samples: list[Sample] = field(default_factory=list)
    problems: list[RowProblem] = field(default_factory=list)
    unused_keys: dict[str, int] = field(default_factory=dict)


def read_file(file: Path) -> Loaded:
    """Read one file to its end, collecting every problem."""
    read = list(read_rows(file))
    rows = [row for row in read if isinstance(row, RawRow)]
    loaded = Loaded(file, detect(row.value for row in rows))
    if loaded.format is None:
        loaded.problems.extend(row for row in read if isinstance(row, RowProblem))
        if rows:
            loaded.problems.append(RowProblem(file, rows[0].line, "", "unknown_format", _no_key()))
        return loaded
    first_lines: dict[str, int] = {}
    for row in read:
        if isinstance(row, RowProblem):
            loaded.problems.append(row)
            continue
        for key in row.value.keys() - KEYS[loaded.format]:
            loaded.unused_keys[key] = loaded.unused_keys.get(key, 0) + 1
        sample, problems = _sample(row, loaded.format, first_lines)
        loaded.problems.extend(problems)
        if sample:
            loaded.samples.append(sample)
    return loaded


def _no_key() -> Text:
    return tr("a row needs `messages` (OpenAI), `conversations` (ShareGPT) or `instruction`")


def _sample(
    row: RawRow, format: Format, first_lines: dict[str, int]
) -> tuple[Sample | None, list[RowProblem]]:
    try:
        parsed = PARSERS[format](row.value)
        faults = list(_faults(parsed, next(iter(KEYS[format] & {"messages", "conversations"}), "")))
    except FieldProblems as error:
        return None, [RowProblem(row.file, row.line, *fault) for fault in error.problems]
    row_id = parsed.id or f"{row.file.stem}:{row.line}"
    if row_id in first_lines:
        reason = tr("the id `{id}` was used in line {line}", id=row_id, line=first_lines[row_id])
        faults.append(("id", "duplicate_id", reason))
    first_lines.setdefault(row_id, row.line)
    if faults:
        return None, [RowProblem(row.file, row.line, *fault) for fault in faults]
    messages = tuple(message for _, message in parsed.messages)
    return Sample(row_id, messages, row.file, row.line, parsed.topic), []


def _faults(parsed: Parsed, whole: str) -> Iterator[tuple[str, str, Text]]:
    """Rules on the conversation; `whole` names the field when all of it is meant."""
    if not parsed.messages:
        yield whole, "empty", tr("there is no turn")
        return
    wanted = "user"
    for index, (at, message) in enumerate(parsed.messages):
        if not message.content.strip():
            yield at, "empty_text", tr("the text is empty")
        if message.role == "system":
            if index:
                yield at, "role_order", tr("a system turn may only be the first")
        elif message.role != wanted:
            reason = tr(
                "expected a turn of `{wanted}`, found `{found}`", wanted=wanted, found=message.role
            )
            yield at, "role_order", reason
            wanted = "assistant" if message.role == "user" else "user"
        else:
            wanted = "assistant" if wanted == "user" else "user"
    last_at, last = parsed.messages[-1]
    if all(message.role != "assistant" for _, message in parsed.messages):
        yield whole or last_at, "no_assistant", tr("there is no assistant turn to learn from")
    elif last.role != "assistant":
        yield last_at, "last_turn", tr("the last turn must be the assistant's")


def load_dataset(path: Path, split: Split = "train") -> list[Sample]:
    """The samples of one split, in file order.

    Args:
        path: a folder with `train.jsonl` and perhaps `heldout.jsonl` (or `.json`), or one file,
            which then is the train split. OpenAI, ShareGPT and Alpaca rows are recognised.

    Raises:
        NotFoundError: no such dataset or split.
        InputError: the first bad row, with file, line, field and reason.
    """
    files = split_files(path)
    if split not in files:
        raise NotFoundError(
            "data.no_split",
            tr("{path} has no {split} split", path=str(path), split=split),
            tr("put the rows that are kept for the test into {split}.jsonl", split=split),
        )
    loaded = read_file(files[split])
    if loaded.problems:
        raise bad_row(loaded.problems[0], more=len(loaded.problems) - 1, dataset=path)
    return loaded.samples


def bad_row(problem: RowProblem, *, more: int, dataset: Path) -> InputError:
    """The error for a bad row, saying how many other problems there are."""
    hint = tr(
        "see all problems ({count}) with `slipway data check {path}`", count=more + 1, path=dataset
    )
    if problem.field:
        message = tr(
            "{place}: `{field}`: {reason}",
            place=problem.place,
            field=problem.field,
            reason=problem.reason,
        )
    else:
        message = tr("{place}: {reason}", place=problem.place, reason=problem.reason)
    return InputError("data.bad_row", message, hint)


def dataset_digest(path: Path) -> str:
    """`sha256:<hex>` over the bytes of the dataset's split files; its identity in a lineage."""
    files = split_files(path)
    return "sha256:" + sha256_json({split: sha256_file(file) for split, file in files.items()})
