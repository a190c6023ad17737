"""What the numbers say: which setting matters, by how much, and whether it is beyond the noise."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import astuple, dataclass

from slipway.core.i18n import Text, tr
from slipway.export.bench.grid import AXES, Kind
from slipway.export.bench.machine import BUSY
from slipway.export.bench.records import Result

_LEAST = 0.01  # differences below this are nobody's concern
_UNKNOWN_NOISE = 0.05  # of a single repetition


@dataclass(frozen=True, slots=True)
class Effect:
    """How one setting changes the speed of one kind of work, all else equal.

    Attributes:
        kind: the work.
        axis: the setting, a name of `AXES`, "streams" or "model".
        best: its values that are fastest; several when they differ by noise only.
        worst: the slowest value.
        gain: speed of the best over that of the worst, minus 1.
        noise: least relative difference that is beyond chance.
    """

    kind: Kind
    axis: str
    best: tuple[str, ...]
    worst: str
    gain: float
    noise: float

    @property
    def matters(self) -> bool:
        """Whether the difference is beyond the noise."""
        return self.gain > self.noise


def disturbed(results: Sequence[Result]) -> list[Result]:
    """Results while which other programs took so much of the processor that it shows."""
    return [result for result in results if result.others is not None and result.others > BUSY]


def effects(results: Sequence[Result]) -> list[Effect]:
    """The effect of each setting that was varied, on each kind of work.

    Disturbed results are left out: their differences would be the other programs' doing.
    """
    found = []
    out = disturbed(results)
    quiet = [result for result in results if result not in out]
    for kind in dict.fromkeys(result.point.kind for result in quiet):
        of_kind = [result for result in quiet if result.point.kind == kind]
        for axis in (*AXES, "streams", "model"):
            effect = _effect(kind, axis, of_kind)
            if effect is not None:
                found.append(effect)
    return found


def value_of(result: Result, axis: str) -> str:
    """A setting's value of a result, as text."""
    if axis == "model":
        return result.model
    source = result.point if axis == "streams" else result.point.setup
    return str(getattr(source, axis))


def _effect(kind: Kind, axis: str, results: Sequence[Result]) -> Effect | None:
    values = list(dict.fromkeys(value_of(result, axis) for result in results))
    if len(values) < 2:
        return None
    matched: dict[tuple[object, ...], dict[str, Result]] = defaultdict(dict)
    for result in results:
        matched[_rest(result, axis)][value_of(result, axis)] = result
    complete = [row for row in matched.values() if len(row) == len(values)]
    if not complete:
        return None
    speed = {
        value: math.exp(sum(math.log(row[value].mean) for row in complete) / len(complete))
        for value in values
    }
    order = sorted(values, key=lambda value: -speed[value])
    noise = _noise([result for row in complete for result in row.values()], len(complete))
    fastest = speed[order[0]]
    best = tuple(value for value in values if fastest / speed[value] - 1 <= noise)
    return Effect(kind, axis, best, order[-1], fastest / speed[order[-1]] - 1, noise)


def _rest(result: Result, axis: str) -> tuple[object, ...]:
    """All that a result was measured with, but the axis."""
    setup = {name: value_of(result, name) for name in AXES if name != axis}
    point = result.point
    streams = None if axis == "streams" else point.streams
    model = None if axis == "model" else result.model
    return (*setup.values(), point.prompt, point.decode, point.depth, streams, model)


def _noise(results: Sequence[Result], rows: int) -> float:
    """The relative difference of two means that chance rarely exceeds (about 1 time in 20)."""
    repeated = [result for result in results if len(result.samples) > 1]
    if not repeated:
        return _UNKNOWN_NOISE
    variance = sum((result.stddev / result.mean) ** 2 for result in repeated) / len(repeated)
    samples = min(len(result.samples) for result in repeated) * rows
    return max(_LEAST, 2 * math.sqrt(2 * variance / samples))


def best_of(results: Sequence[Result], kind: Kind) -> Result | None:
    """The fastest result of a kind, or None."""
    return max(
        (result for result in results if result.point.kind == kind),
        key=lambda result: result.mean,
        default=None,
    )


def unsteady(results: Sequence[Result]) -> list[Result]:
    """Results whose repetitions scatter by more than a tenth."""
    return [result for result in results if result.stddev > 0.1 * result.mean]


def setup_text(result: Result, axes: Sequence[str] = AXES) -> str:
    """A setup in the words of the command line."""
    return " ".join(f"--{axis.replace('_', '-')} {value_of(result, axis)}" for axis in axes)


def varied(results: Sequence[Result]) -> list[str]:
    """The axes with more than one value."""
    return [axis for axis in AXES if len({value_of(result, axis) for result in results}) > 1]


def conclusion(results: Sequence[Result]) -> list[Text]:
    """What is best here and why, a sentence for each kind of work and each setting varied."""
    said: list[Text] = []
    found = effects(results)
    if out := disturbed(results):
        most = max(result.others or 0.0 for result in out)
        said.append(
            tr(
                "{count} of {total} results were disturbed: other programs took up to {most} of "
                "the processor; comparisons leave them out",
                count=len(out),
                total=len(results),
                most=f"{most:.0%}",
            )
        )
    for kind in dict.fromkeys(result.point.kind for result in results):
        best = best_of(results, kind)
        assert best is not None
        said.append(_best_text(best, varied(results)))
        for effect in (effect for effect in found if effect.kind == kind):
            said.append(_effect_text(effect))
    if (memory := _memory_text(results)) is not None:
        said.append(memory)
    return said


def _best_text(best: Result, axes: Sequence[str]) -> Text:
    speed = f"{best.mean:.1f} ± {best.stddev:.1f}"
    return tr(
        "{work}: best {speed} tokens/s with {setup} ({model}, {label})",
        work=_work(best.point.kind),
        speed=speed,
        setup=setup_text(best, axes or AXES),
        model=best.model,
        label=best.point.label,
    )


def _work(kind: Kind) -> Text:
    return {
        "prompt": tr("reading prompts"),
        "decode": tr("writing answers"),
        "streams": tr("several answers at once"),
    }[kind]


def _effect_text(effect: Effect) -> Text:
    name = f"--{effect.axis.replace('_', '-')}" if effect.axis != "model" else tr("the model")
    if not effect.matters:
        return tr(
            "  {name}: no difference beyond the noise of {noise}",
            name=name,
            noise=f"{effect.noise:.1%}",
        )
    return tr(
        "  {name}: {best} is {gain} faster than {worst} (noise {noise}): {why}",
        name=name,
        best=" / ".join(effect.best),
        gain=f"{effect.gain:.0%}",
        worst=effect.worst,
        noise=f"{effect.noise:.1%}",
        why=_why(effect),
    )


def _why(effect: Effect) -> Text:
    match effect.axis:
        case "threads":
            more = int(effect.best[-1]) > int(effect.worst)
            return (
                tr("the products are shared by more cores")
                if more
                else tr("more threads than free cores wait for each other")
            )
        case "batch" | "ubatch":
            return tr("the weights are read once for each batch, and cores are filled or not")
        case "flash_attn":
            return (
                tr("attention is computed in blocks that stay in the processor's cache")
                if "off" not in effect.best
                else tr("at these lengths plain products cost less than the blocks' bookkeeping")
            )
        case "kv_type":
            return (
                tr("less memory is read for each token of the context")
                if any(value.startswith(("q", "iq")) for value in effect.best)
                else tr("entries of the cache need not be turned back into floats")
            )
        case "streams":
            return tr("one reading of the weights serves all streams")
    return tr("fewer bytes are read or fewer operations done for each token")


def _memory_text(results: Sequence[Result]) -> Text | None:
    known = [result for result in results if result.memory_bytes]
    if not known:
        return None
    least = min(known, key=lambda result: result.memory_bytes or 0)
    most = max(known, key=lambda result: result.memory_bytes or 0)
    if astuple(least.point.setup) == astuple(most.point.setup) and least.model == most.model:
        return tr("memory: at most {most} MB", most=round((most.memory_bytes or 0) / 1e6))
    several = len({result.model for result in results}) > 1

    def told(result: Result) -> str:
        parts = [result.model] if several else []
        return " ".join([*parts, setup_text(result, varied(results))]).strip() or result.model

    return tr(
        "memory: {least} MB ({setup_least}) to {most} MB ({setup_most})",
        least=round((least.memory_bytes or 0) / 1e6),
        setup_least=told(least),
        most=round((most.memory_bytes or 0) / 1e6),
        setup_most=told(most),
    )
