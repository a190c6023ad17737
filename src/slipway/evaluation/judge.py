"""A model as judge of two answers: asked twice with the order swapped, and counted honestly.

A judge prefers what stands first, or is long, more than it should. Each pair is shown in both
orders; only when both verdicts name the same answer has it won. Two verdicts that contradict each
other are a tie and are counted as a disagreement; an answer without a verdict is a parse failure,
counted and named, and decides nothing.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from slipway.core.files import sha256_json
from slipway.evaluation.bootstrap import interval
from slipway.evaluation.endpoint import Endpoint, RowRefusedError, each
from slipway.evaluation.metrics import Metric, mean_of
from slipway.evaluation.predictions import Lines, Prediction
from slipway.evaluation.segment import answer_of

Verdict = Literal["first", "second", "tie", "unreadable"]
Outcome = Literal["model", "baseline", "tie", "disagreement", "unreadable"]
Language = Literal["en", "zh"]
_MAX_TOKENS = 512
WIN_RATE = Metric("judge_win_rate", "higher", lambda sums: sums[..., 0] / sums[..., 1])

TEMPLATES: dict[Language, str] = {
    "en": """\
You compare two answers to the same request. Judge correctness first, then whether the request is \
fully met, then clarity. Length alone is no merit, and the order of the answers means nothing.

<request>
{prompt}
</request>
{reference}
<answer_1>
{first}
</answer_1>

<answer_2>
{second}
</answer_2>

Reply with one JSON object and nothing else: {{"reason": "<one short sentence>", \
"winner": "1" or "2" or "tie"}}""",
    "zh": """\
请比较对同一请求的两个回答。首先看是否正确，其次看是否完整满足请求，最后看表达是否清楚。\
篇幅长短本身不加分，回答的先后顺序没有任何含义。

<request>
{prompt}
</request>
{reference}
<answer_1>
{first}
</answer_1>

<answer_2>
{second}
</answer_2>

只回复一个 JSON 对象，不要输出其他内容：\
{{"reason": "<一句话理由>", "winner": "1" 或 "2" 或 "tie"}}""",
}
_REFERENCE: dict[Language, str] = {
    "en": "\n<reference>\n{text}\n</reference>\nThe reference is a good answer; other good answers "
    "are possible.\n",
    "zh": "\n<reference>\n{text}\n</reference>\n参考答案是一个好的回答，但好的回答不止一种。\n",
}


@dataclass(frozen=True, slots=True)
class Judge:
    """Who judges, and how.

    Attributes:
        model: the server's name for it.
        key: never written anywhere.
        language: of the prompt.
        with_reference: whether the judge sees the reference.
        price: for a million prompt and answer tokens, in the price list's currency; None unknown.
    """

    url: str
    model: str
    key: str = field(default="", repr=False)
    language: Language = "en"
    with_reference: bool = True
    at_once: int = 4
    price: tuple[Decimal, Decimal] | None = None

    def identity(self) -> dict[str, Any]:
        """What a verdict depends on."""
        return {
            "judge": f"{self.url.rstrip('/').removesuffix('/v1')}#{self.model}",
            "prompt": "sha256:"
            + sha256_json([TEMPLATES[self.language], _REFERENCE[self.language], _MAX_TOKENS]),
            "with_reference": self.with_reference,
        }

    @property
    def name(self) -> str:
        """A name for files: another judge or prompt has another."""
        return sha256_json(self.identity())[:8]

    def prompt(self, asked: Prediction, first: str, second: str) -> str:
        """The judge's prompt for one order."""
        reference = (
            _REFERENCE[self.language].format(text=asked.label)
            if self.with_reference and asked.label
            else ""
        )
        return TEMPLATES[self.language].format(
            prompt=asked.prompt, reference=reference, first=first, second=second
        )


def read_verdict(text: str) -> Verdict:
    """The verdict in a judge's answer: its JSON, or the last `winner` that can be read."""
    found = re.findall(r'"?winner"?\s*[:：]\s*"?\s*(1|2|tie)\b', answer_of(text), re.IGNORECASE)
    if not found:
        return "unreadable"
    named: dict[str, Verdict] = {"1": "first", "2": "second", "tie": "tie"}
    return named[found[-1].lower()]


def outcome(forward: Verdict, swapped: Verdict) -> Outcome:
    """What two verdicts say together.

    Args:
        forward: with the baseline's answer first.
        swapped: with the model's answer first.
    """
    if "unreadable" in (forward, swapped):
        return "unreadable"
    ours: dict[Verdict, Outcome] = {"first": "baseline", "second": "model", "tie": "tie"}
    theirs: dict[Verdict, Outcome] = {"first": "model", "second": "baseline", "tie": "tie"}
    a, b = ours[forward], theirs[swapped]
    if a == b:
        return a
    return "disagreement"


def judge_pair(
    judge: Judge,
    baseline: Sequence[Prediction],
    model: Sequence[Prediction],
    path: Path,
    *,
    seed: int,
    resamples: int,
    sleep: Callable[[float], None] = time.sleep,
    on_verdict: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Judge two models' answers to the same questions, row by row.

    Equal answers are a tie without asking. Verdicts are kept in `path` as they come; a second call
    asks only for what is missing or could not be read.

    Args:
        on_verdict: told how many of how many verdicts are there.

    Returns:
        the figures of `results.json`: wins, losses, ties, disagreements, unreadable (ids),
        win_rate with its interval (ties and disagreements count half; unreadable rows are left
        out), tokens and cost.

    Raises:
        SlipwayError: the judge cannot be reached, or refuses the key.
    """
    pairs = {b.id: (b, m) for b, m in zip(baseline, model, strict=True)}
    # the answers are part of a verdict's name: a new answer is judged anew, the rest is kept
    jobs = [
        (key, order, sha256_json([b.prompt, b.label, b.predict, m.predict])[:12])
        for key, (b, m) in pairs.items()
        if answer_of(b.predict) != answer_of(m.predict)
        for order in ("forward", "swapped")
    ]
    with (
        Lines(path, judge.identity()) as lines,
        Endpoint(judge.url, judge.key, sleep=sleep) as endpoint,
    ):

        def ask(job: tuple[str, str, str]) -> None:
            line = _verdict_line(judge, endpoint, pairs[job[0]], job)
            lines.add(line["id"], json.dumps(line, ensure_ascii=False) + "\n")
            if on_verdict:
                on_verdict(len(lines.found), len(jobs))

        missing = [job for job in jobs if not _readable(lines.found.get("|".join(job)))]
        each(missing, ask, at_once=judge.at_once)
        found = lines.finish(["|".join(job) for job in jobs])
    verdicts = {job[:2]: line for job, line in zip(jobs, found, strict=True)}
    return _summary(judge, list(pairs), verdicts, seed, resamples)


def _readable(line: dict[str, Any] | None) -> bool:
    return line is not None and line["verdict"] != "unreadable"


def _verdict_line(
    judge: Judge, endpoint: Endpoint, pair: tuple[Prediction, Prediction], job: tuple[str, str, str]
) -> dict[str, Any]:
    texts = [answer_of(p.predict) for p in pair]
    if job[1] == "swapped":
        texts.reverse()
    prompt = judge.prompt(pair[0], *texts)
    line: dict[str, Any] = {"id": "|".join(job)}
    try:
        reply = endpoint.chat(
            judge.model,
            [{"role": "user", "content": prompt}],
            temperature=0,
            max_tokens=_MAX_TOKENS,
        )
    except RowRefusedError as error:
        return {**line, "verdict": "unreadable", "text": "", "error": error.message_en}
    return {
        **line,
        "verdict": read_verdict(reply.text),
        "text": reply.text,
        "prompt_tokens": reply.prompt_tokens,
        "tokens": reply.tokens,
    }


def _summary(
    judge: Judge,
    order: Sequence[str],
    verdicts: dict[tuple[str, str], dict[str, Any]],
    seed: int,
    resamples: int,
) -> dict[str, Any]:
    outcomes: dict[str, Outcome] = {}
    for key in order:
        forward, swapped = verdicts.get((key, "forward")), verdicts.get((key, "swapped"))
        outcomes[key] = (
            outcome(forward["verdict"], swapped["verdict"]) if forward and swapped else "tie"
        )
    worth = {"model": 1.0, "baseline": 0.0, "tie": 0.5, "disagreement": 0.5}
    points = [100 * worth[o] for o in outcomes.values() if o != "unreadable"]
    prompt_tokens = sum(v.get("prompt_tokens") or 0 for v in verdicts.values())
    tokens = sum(v.get("tokens") or 0 for v in verdicts.values())
    named: dict[str, Any] = {
        kind: [key for key, o in outcomes.items() if o == kind]
        for kind in ("model", "baseline", "tie", "disagreement", "unreadable")
    }
    rate = interval(mean_of(WIN_RATE, points), seed=seed, resamples=resamples) if points else None
    return {
        "judge": judge.identity()["judge"],
        "prompt": judge.identity()["prompt"],
        "language": judge.language,
        "rows": len(order),
        "wins": len(named["model"]),
        "losses": len(named["baseline"]),
        "ties": len(named["tie"]),
        "disagreements": len(named["disagreement"]),
        "unreadable": named["unreadable"],
        "win_rate": rate.as_json() if rate else None,
        "won": named["model"],
        "lost": named["baseline"],
        "requests": len(verdicts),
        "prompt_tokens": prompt_tokens,
        "tokens": tokens,
        "cost": cost(prompt_tokens, tokens, judge.price),
    }


def cost(prompt_tokens: int, tokens: int, price: tuple[Decimal, Decimal] | None) -> str | None:
    """What the tokens cost by the prices for a million, as a decimal text; None when unknown."""
    if price is None:
        return None
    total = (prompt_tokens * price[0] + tokens * price[1]) / Decimal(1_000_000)
    return format(total.quantize(Decimal("0.000001")), "f")
