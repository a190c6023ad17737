"""What one row is worth to learn from, as far as the row alone tells: its reasons and measures.

Duplicates, leaks and the cut-off are known only when all rows are; `scan` adds their reasons.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from slipway.datasets import answers
from slipway.datasets.model import Sample
from slipway.datasets.personal import KINDS, PersonalKind, kinds_in
from slipway.datasets.reasons import BIT, Reason
from slipway.datasets.scripts import LANGUAGES, Script, language_of, scripts_of
from slipway.datasets.shingles import same_text, units_of

_ALIKE = 0.9


@dataclass(slots=True)
class Assessed:
    """A row, looked at.

    Attributes:
        bits: its reasons, see `reasons.BIT`.
        personal: kinds of personal data -> pieces.
        language: number in `LANGUAGES`.
        chars, units: of all turns but the system's; of a text, of all of it.
        answer_units: units of the answers.
        same: 64 bits that are the same for the same conversation.
        questions: units of each user turn.
        whole: units of the conversation without its system turn, both answers of a pair included.
        head: the first question, or the text's beginning.
    """

    bits: int = 0
    personal: dict[PersonalKind, int] = field(default_factory=dict)
    language: int = 0
    chars: int = 0
    units: int = 0
    answer_units: int = 0
    same: int = 0
    questions: list[list[str]] = field(default_factory=list)
    whole: list[str] = field(default_factory=list)
    head: str = ""


Turn = tuple[str, str, list[str]]
"""(role, text, units)"""


def assess(sample: Sample) -> Assessed:
    """Look at a row."""
    turns: list[Turn] = [(m.role, m.content, units_of(m.content)) for m in sample.messages]
    for answer in (sample.chosen, sample.rejected):
        if answer:
            turns.append(("assistant", answer.content, units_of(answer.content)))
    if sample.kind == "text":
        turns = [("text", sample.text, units_of(sample.text))]
    said = [turn for turn in turns if turn[0] != "system"]
    found = Assessed(
        chars=sum(len(text) for _, text, _ in said),
        same=same_text((role, units) for role, _, units in said),
        questions=[units for role, _, units in said if role == "user"],
        whole=[unit for _, _, units in said for unit in units],
        head=next((text for role, text, _ in said if role in ("user", "text")), ""),
    )
    found.units = len(found.whole)
    scripts = scripts_of(found.whole)
    found.language = LANGUAGES.index(language_of(scripts))
    for kind in kinds_in([text for _, text, _ in turns]):
        found.personal[kind] = found.personal.get(kind, 0) + 1
    reasons = set(_of_texts(said))
    if found.personal:
        reasons.add(Reason.PERSONAL)
    if sample.kind == "text":
        if answers.repeats_itself(found.whole):
            reasons.add(Reason.REPETITION)
    else:
        found.answer_units = sum(len(units) for role, _, units in said if role == "assistant")
        reasons |= _of_conversation(sample, turns, said, one_script=len(scripts) < 2)
    found.bits = sum(BIT[reason] for reason in reasons)
    return found


def _of_texts(said: Sequence[Turn]) -> set[Reason]:
    if any(answers.is_garbled(text) for _, text, _ in said):
        return {Reason.GARBLED}
    return set()


def _of_conversation(
    sample: Sample, turns: Sequence[Turn], said: Sequence[Turn], *, one_script: bool
) -> set[Reason]:
    reasons: set[Reason] = set()
    if sample.chosen and sample.rejected:
        better, worse = said[-2][2], said[-1][2]
        said = said[:-1]  # the worse answer may be anything
        if _alike(better, worse):
            reasons.add(Reason.SAME_ANSWERS)
    if sample.desirable is False:
        said = [turn for turn in said if turn[0] != "assistant"]  # marked bad: it may be so
    called = any(message.tool_calls for message in sample.messages)
    question: Turn = ("user", "", [])
    for role, text, units in said:
        if role == "user":
            question = (role, text, units)
            if not units and text.strip():
                reasons.add(Reason.VAGUE_QUESTION)
        elif role == "assistant" and (units or not called):
            reasons |= _of_answer(text, units, question)
    if not called and said and said[-1][0] == "assistant":
        reasons |= _of_last(said[-1], question)
        system = turns[0][1] if turns[0][0] == "system" else ""
        if not one_script and _unasked_language(said[-1][2], question, system):
            reasons.add(Reason.LANGUAGE)
    return reasons


def _of_answer(text: str, units: Sequence[str], question: Turn) -> set[Reason]:
    """What any answer may have, those in the middle of a conversation too."""
    plain = answers.without_thought(text)
    if plain is not text:
        units = units_of(plain)
    if answers.says_nothing(units):
        return {Reason.EMPTY_ANSWER}
    tests = {
        Reason.REFUSAL: answers.refuses(plain),
        Reason.REPETITION: answers.repeats_itself(units),
        Reason.HTML: answers.has_html(plain, question[1]),
        Reason.PLACEHOLDER: answers.has_placeholder(plain),
        Reason.IDENTITY: answers.is_another(plain),
    }
    return {reason for reason, true in tests.items() if true}


def _of_last(answer: Turn, question: Turn) -> set[Reason]:
    reasons: set[Reason] = set()
    asked, units = question[2], answer[2]
    if len(units) == 1 and len(asked) >= 6:
        reasons.add(Reason.SHORT_ANSWER)
    if answers.stops_in_the_middle(answer[1], units):
        reasons.add(Reason.UNFINISHED)
    if len(asked) >= 5 and list(units[: len(asked)]) == list(asked):
        reasons.add(Reason.ECHO)
    return reasons


def _unasked_language(units: Sequence[str], question: Turn, system: str) -> bool:
    """The answer is in another language than the question, which does not ask for it."""
    asked = question[2]
    if len(asked) < 6 or len(units) < 6 or not _other_language(asked, units):
        return False
    return not answers.asks_for_another_language(f"{system}\n{question[1]}")


def _other_language(asked: Sequence[str], answered: Sequence[str]) -> bool:
    """Nearly all of the question is in one script, and nearly nothing of the answer."""
    mine, theirs = scripts_of(asked), scripts_of(answered)
    script = _main(mine)
    if script is None or _main(theirs) is None:
        return False
    east: tuple[Script, ...] = ("han", "kana")
    same = east if script in east else (script,)
    return sum(theirs[one] for one in same) <= 0.1 * sum(theirs.values())


def _main(scripts: Counter[Script]) -> Script | None:
    total = sum(scripts.values())
    if total < 5:
        return None
    script, count = max(scripts.items(), key=lambda item: item[1])
    joined = scripts["han"] + scripts["kana"] if script in ("han", "kana") else count
    return script if joined >= 0.8 * total else None


def _alike(left: Sequence[str], right: Sequence[str]) -> bool:
    one, other = set(pairwise(left)), set(pairwise(right))
    if not one or not other:
        return list(left) == list(right)
    return len(one & other) >= _ALIKE * len(one | other)


def personal_bits(kinds: Collection[PersonalKind]) -> int:
    """The kinds as bits, in the order of `KINDS`."""
    return sum(1 << number for number, kind in enumerate(KINDS) if kind in kinds) if kinds else 0


def personal_of(bits: int) -> list[PersonalKind]:
    """The kinds of `personal_bits`."""
    return [kind for number, kind in enumerate(KINDS) if bits >> number & 1]
