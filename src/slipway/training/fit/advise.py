"""From needs and a machine to answers: what fits here, and what to rent for the rest."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from slipway.core.i18n import Text, tr
from slipway.training.fit.catalogue import Known, catalogue
from slipway.training.fit.needs import METHODS, PRECISIONS, Method, inference_bytes, training_bytes
from slipway.training.fit.shape import count

_USABLE = 0.92  # part of a memory that can be filled
# of several GPUs each also holds what cannot be divided
_SHARED = 0.85
TOKENS = 2048  # computed at once, as `pack_tokens` has it
CONTEXT = 4096


@dataclass(frozen=True, slots=True)
class Machine:
    """Where something is to fit.

    Attributes:
        memory_bytes: of the GPU, or of the machine without one.
        base_bytes: bytes of a frozen weight while training: 2 where bf16 is fast, else 4.
    """

    memory_bytes: int
    base_bytes: int
    what: Literal["cpu", "gpu"]


@dataclass(frozen=True, slots=True)
class Need:
    """One way to use a model.

    Attributes:
        how: a training method, or a precision of GGUF.
        checkpointing: it fits because activations are computed twice.
        rent: the smallest GPUs it fits on, such as `2 x A100 / A800 80G`; empty when it fits here
            or nowhere.
    """

    use: Literal["train", "run"]
    how: str
    bytes: int
    fits: bool
    checkpointing: bool = False
    rent: str = ""

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "use": self.use,
            "how": self.how,
            "bytes": self.bytes,
            "fits": self.fits,
            "activation_checkpointing": self.checkpointing,
            "rent": self.rent or None,
        }


@dataclass(frozen=True, slots=True)
class Answer:
    """What a machine can do with a model, and what to do instead."""

    model: Known
    needs: tuple[Need, ...]
    advice: tuple[Text, ...]


@cache
def _rentable() -> tuple[tuple[str, float, int], ...]:
    """(name, bytes, count) of what can be rented, few GPUs before many, small before large."""
    table = tomllib.loads((Path(__file__).parent / "gpus.toml").read_text(encoding="utf-8"))
    found = []
    for n in table["counts"]:
        for gpu in table["gpus"]:
            part = _USABLE if n == 1 else _SHARED
            found.append((str(gpu["name"]), n * gpu["gib"] * 2**30 * part, int(n)))
    return tuple(sorted(found, key=lambda item: (item[2], item[1])))


def rent(need_bytes: int) -> str:
    """The fewest and smallest GPUs that hold so many bytes; empty when none does."""
    for name, usable, n in _rentable():
        if usable >= need_bytes:
            return name if n == 1 else f"{n} x {name}"
    return ""


def ask(
    model: Known,
    machine: Machine,
    *,
    methods: Sequence[Method] = METHODS,
    precisions: Sequence[str] = tuple(PRECISIONS),
    context: int = CONTEXT,
    tokens: int = TOKENS,
) -> Answer:
    """Every way to train and run a model, whether it fits, and what to rent where not.

    Args:
        context: tokens of the conversation that is served.
        tokens: tokens that training computes at once.
    """
    usable = machine.memory_bytes * _USABLE
    needs = [_train(model, machine, method, usable, tokens) for method in methods]
    for precision in precisions:
        size = inference_bytes(model.shape, precision, context)
        fits = size <= usable
        needs.append(Need("run", precision, size, fits, rent="" if fits else rent(size)))
    return Answer(model, tuple(needs), tuple(_advice(model, needs)))


def _train(model: Known, machine: Machine, method: Method, usable: float, tokens: int) -> Need:
    def size(base_bytes: int, checkpointing: bool = False) -> int:
        return training_bytes(
            model.shape, method, base_bytes=base_bytes, tokens=tokens, checkpointing=checkpointing
        )

    plain = size(machine.base_bytes)
    if plain <= usable:
        return Need("train", method, plain, True)
    small = size(machine.base_bytes, checkpointing=True)
    if small <= usable:
        return Need("train", method, small, True, checkpointing=True)
    # a rented GPU computes in bf16
    return Need("train", method, small, False, rent=rent(size(2, checkpointing=True)))


def best(needs: Sequence[Need], use: Literal["train", "run"]) -> Need | None:
    """The way that fits and gives most: all weights, else adapters, else the last layers."""
    ways = [need for need in needs if need.use == use and need.fits]
    return min(ways, key=lambda need: need.how == "freeze", default=None)


def _advice(model: Known, needs: Sequence[Need]) -> list[Text]:
    found: list[Text] = []
    train, run = best(needs, "train"), best(needs, "run")
    if train:
        found.append(tr("train it here with {how}", how=_how(train)))
    elif trained := [need for need in needs if need.use == "train" and need.rent]:
        found.append(
            tr("to train it with {how}, rent {gpu}", how=trained[-1].how, gpu=trained[-1].rent)
        )
    if run:
        found.append(tr("run it here as {how}", how=run.how))
    if model.remote and not run:
        smaller = [m.name for m in catalogue() if "Distill" in m.name]
        found.append(
            tr(
                "use it from afar as a channel of the gateway (model `{remote}`), and its distils "
                "here: {names}",
                remote=model.remote,
                names=", ".join(smaller[:4]),
            )
        )
    if model.hub and (train or run):
        found.append(tr("fetch it with `slipway pull {name}`", name=model.hub))
    return found


def _how(need: Need) -> Text | str:
    if need.checkpointing:
        return tr("{how} and `checkpointing: on`", how=need.how)
    return need.how


def overview(machine: Machine) -> list[tuple[Known, int, Need | None, Need | None]]:
    """Each known model with its weights, the best training and the best precision that fit."""
    rows = []
    for model in catalogue():
        answer = ask(model, machine)
        rows.append(
            (
                model,
                count(model.shape).total,
                best(answer.needs, "train"),
                best(answer.needs, "run"),
            )
        )
    return sorted(rows, key=lambda row: row[1])
