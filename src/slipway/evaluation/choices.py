"""Multiple-choice sets from local files, in the layouts of MMLU, C-Eval and CMMLU.

    mmlu    {dev,val,test}/<subject>_{dev,val,test}.csv   question,A,B,C,D,answer (no header)
    ceval   {dev,val,test}/<subject>_{dev,val,test}.csv   id,question,A,B,C,D,answer[,explanation]
    cmmlu   {dev,test}/<subject>.csv                      ,Question,A,B,C,D,Answer

Which one it is, the files say. Examples (n-shot) come from `dev`.
"""

from __future__ import annotations

import csv
import json
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from slipway.core.errors import InputError, NotFoundError, UsageError
from slipway.core.files import sha256_json
from slipway.core.i18n import tr
from slipway.export.eval_inputs import spread

Layout = Literal["mmlu", "ceval", "cmmlu"]
Language = Literal["en", "zh"]
LETTERS = ("A", "B", "C", "D")
_SUFFIX = re.compile(r"_(dev|val|test)$")
# the sets' published prompts: scores can be compared only when they are the same to the letter
_HEAD = {
    "en": "The following are multiple choice questions (with answers) about {subject}.\n\n",
    "zh": "以下是关于{subject}的单项选择题，请直接给出正确答案的选项。\n\n",
}
_ANSWER = {"en": "\nAnswer:", "zh": "\n答案："}
_GAP = {"en": " ", "zh": ""}


@dataclass(frozen=True, slots=True)
class Item:
    """One question with four options; `answer` is A, B, C or D."""

    subject: str
    question: str
    options: tuple[str, str, str, str]
    answer: str


@dataclass(frozen=True, slots=True)
class Choice:
    """A question as it is asked.

    Attributes:
        id: `<subject>:<number>`, from 1.
        prompt: examples and question; ends where the letter is to stand.
        options: what may follow the prompt, each a letter with a space before it where the
            language wants one.
    """

    id: str
    subject: str
    category: str
    prompt: str
    options: tuple[str, ...]
    answer: str


@dataclass(frozen=True, slots=True)
class ChoiceSet:
    """A set as it is asked; `shots` examples stand before each question."""

    name: str
    layout: Layout
    part: str
    shots: int
    choices: list[Choice]
    unsorted: list[str]

    @property
    def digest(self) -> str:
        """Of everything that is asked and the right answers."""
        asked = [[c.id, c.prompt, list(c.options), c.answer] for c in self.choices]
        return "sha256:" + sha256_json(asked)


def read_choices(
    folder: Path,
    *,
    part: str | None = None,
    shots: int = 5,
    subjects: Sequence[str] = (),
    rows: int | None = None,
) -> ChoiceSet:
    """Read a set.

    Args:
        part: `dev`, `val` or `test`; default `test` when it has answers, else `val`.
        shots: examples before each question, from `dev`.
        subjects: only these.
        rows: at most so many of each subject.

    Raises:
        NotFoundError: no csv files, or no such part or subject.
        InputError: a row is malformed or has no answer; file and line are named.
        UsageError: there are fewer examples than `shots`.
    """
    part = part or _part_with_answers(folder)
    files = _files(folder, part)
    unknown = sorted(set(subjects) - set(files))
    if unknown:
        raise NotFoundError(
            "eval.no_subject",
            tr("{path} has no subject {names}", path=str(folder), names=", ".join(unknown)),
            tr("known subjects: {names}", names=", ".join(files)),
        )
    chosen = {name: path for name, path in files.items() if not subjects or name in subjects}
    layout = _layout(next(iter(chosen.values())))
    names = _Names(folder, layout)
    examples = _files(folder, "dev") if shots else {}
    choices = []
    for subject, path in chosen.items():
        head = _head(names.title(subject), _language(layout))
        head += _examples(subject, examples.get(subject), shots, layout)
        items = list(_items(path, subject))
        for number, item in enumerate(items, 1):
            choices.append(_choice(item, number, names.category(subject), head, layout))
    if rows is not None:
        choices = [c for name in chosen for c in spread(
            [c for c in choices if c.subject == name], rows)]  # fmt: skip
    unsorted = [name for name in chosen if not names.known(name)]
    return ChoiceSet(folder.resolve().name, layout, part, shots, choices, unsorted)


def _choice(item: Item, number: int, category: str, head: str, layout: Layout) -> Choice:
    language = _language(layout)
    return Choice(
        f"{item.subject}:{number}",
        item.subject,
        category,
        head + _asked(item, language),
        tuple(_GAP[language] + letter for letter in LETTERS),
        item.answer,
    )


def _language(layout: Layout) -> Language:
    return "en" if layout == "mmlu" else "zh"


def _head(title: str, language: Language) -> str:
    return _HEAD[language].format(subject=title)


def _asked(item: Item, language: Language) -> str:
    lines = [item.question, *(f"{x}. {o}" for x, o in zip(LETTERS, item.options, strict=True))]
    return "\n".join(lines) + _ANSWER[language]


def _examples(subject: str, path: Path | None, shots: int, layout: Layout) -> str:
    if not shots:
        return ""
    items = list(_items(path, subject)) if path else []
    if len(items) < shots:
        raise UsageError(
            "eval.few_examples",
            tr("{subject} has {found} examples in `dev`, {shots} are asked for",
               subject=subject, found=len(items), shots=shots),
            tr("give fewer with `--shots {found}`", found=len(items)),
        )  # fmt: skip
    language = _language(layout)
    gap = _GAP[language]
    return "".join(f"{_asked(item, language)}{gap}{item.answer}\n\n" for item in items[:shots])


def _files(folder: Path, part: str) -> dict[str, Path]:
    found = {_SUFFIX.sub("", path.stem): path for path in sorted((folder / part).glob("*.csv"))}
    if not found:
        raise NotFoundError(
            "eval.no_choices",
            tr("{path} holds no csv files", path=str(folder / part)),
            tr("give the folder with `dev`, `val` and `test` of an unpacked MMLU, C-Eval or CMMLU"),
        )
    return found


def _part_with_answers(folder: Path) -> str:
    """`test`, unless its answers are withheld, as C-Eval's are."""
    tests = sorted((folder / "test").glob("*.csv"))
    if not tests:
        return "val"
    try:
        next(_items(tests[0], tests[0].stem))
    except (InputError, StopIteration):
        return "val"
    return "test"


def _layout(path: Path) -> Layout:
    with path.open(encoding="utf-8-sig", newline="") as file:
        first = [cell.strip().lower() for cell in next(csv.reader(file), [])]
    if "question" not in first:
        return "mmlu"
    return "ceval" if "id" in first else "cmmlu"


def _items(path: Path, subject: str) -> Iterator[Item]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        columns = [0, 1, 2, 3, 4, 5]
        for number, cells in enumerate(reader):
            if number == 0 and (header := _columns(cells)):
                columns = header
                continue
            if not cells:
                continue
            yield _item(cells, columns, path, reader.line_num, subject)


def _columns(cells: Sequence[str]) -> list[int] | None:
    """Where question, A-D and answer stand, when this line is a header."""
    low = [cell.strip().lower() for cell in cells]
    wanted = ["question", "a", "b", "c", "d", "answer"]
    if "question" not in low:
        return None
    return [low.index(name) if name in low else len(low) for name in wanted]


def _item(
    cells: Sequence[str], columns: Sequence[int], path: Path, line: int, subject: str
) -> Item:
    values = [cells[at].strip() if at < len(cells) else "" for at in columns]
    question, a, b, c, d, answer = values
    answer = answer.upper()
    if not question or answer not in LETTERS:
        what = tr("no question") if not question else tr("no answer A, B, C or D")
        raise InputError(
            "eval.bad_choice",
            tr("{file}:{line}: {reason}", file=str(path), line=line, reason=what),
            tr("take a part with answers, such as `--choices-part val`"),
        )
    return Item(subject, question, (a, b, c, d), answer)


class _Names:
    """Title and category of each subject: from a file beside the data, else from our table."""

    def __init__(self, folder: Path, layout: Layout) -> None:
        self._layout: Layout = layout
        self._categories = _table()[layout]
        self._titles: dict[str, str] = {}
        for name in ("mapping.json", "subject_mapping.json"):
            if (folder / name).is_file():
                self._read(folder / name)

    def _read(self, path: Path) -> None:
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            for subject, value in raw.items():
                if isinstance(value, dict):  # {"name": ..., "category": ...}
                    self._titles[subject] = str(value["name"])
                    self._categories = {**self._categories, subject: str(value["category"])}
                else:  # [English name, Chinese name, category]
                    self._titles[subject] = str(value[0 if self._layout == "mmlu" else 1])
                    self._categories = {**self._categories, subject: str(value[2])}
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise InputError(
                "eval.bad_mapping",
                tr("{path} does not name each subject's title and category", path=str(path)),
            ) from error

    def title(self, subject: str) -> str:
        return self._titles.get(subject, subject.replace("_", " "))

    def category(self, subject: str) -> str:
        found = self._categories.get(subject, "Other")
        return {"Social Science": "Social Sciences"}.get(found, found)

    def known(self, subject: str) -> bool:
        return subject in self._categories


@cache
def _table() -> dict[str, dict[str, str]]:
    text = Path(__file__).with_name("subjects.toml").read_text(encoding="utf-8")
    return {
        layout: {s: category for category, names in table.items() for s in names}
        for layout, table in tomllib.loads(text).items()
    }
