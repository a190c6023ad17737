"""`slipway fit [MODEL]`: what fits this machine's memory, and what to rent for the rest."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from slipway.cli import output
from slipway.core.errors import UsageError
from slipway.core.i18n import tr

if TYPE_CHECKING:
    from slipway.training.fit import Answer, Machine

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


@click.command(
    help=str(
        tr(
            "Show by which method MODEL can be trained and at which precision it runs in this "
            "machine's memory. MODEL is a name such as `Qwen2.5-7B` or `DeepSeek-V3`, or a folder "
            "with config.json; without it all known models are listed."
        )
    )
)
@click.argument("model", required=False)
@click.option(
    "--method",
    "methods",
    multiple=True,
    type=click.Choice(["full", "freeze", "lora", "qlora-8", "qlora-4"]),
    help=str(tr("Only this training method; may be given several times.")),
)
@click.option(
    "--quant",
    "precisions",
    multiple=True,
    type=click.Choice(
        ["F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K"], case_sensitive=False
    ),
    help=str(tr("Only this precision of inference; may be given several times.")),
)
@click.option(
    "--context",
    default=4096,
    type=click.IntRange(min=1),
    help=str(tr("Tokens of the conversation that is served.")),
)
@click.option(
    "--tokens",
    default=2048,
    type=click.IntRange(min=1),
    help=str(tr("Tokens that training computes at once (`pack_tokens`).")),
)
@click.option(
    "--memory", help=str(tr("Another memory instead of this machine's, for example 24G."))
)
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def fit(
    model: str | None,
    methods: tuple[str, ...],
    precisions: tuple[str, ...],
    context: int,
    tokens: int,
    memory: str | None,
    as_json: bool,
) -> None:
    from slipway.training.fit import ask, find_model
    from slipway.training.fit.needs import METHODS, PRECISIONS

    machine = _machine(memory)
    if model is None:
        _list(machine, as_json)
        return
    one = bool(methods or precisions)
    answer = ask(
        find_model(model),
        machine,
        methods=[m for m in METHODS if m in methods] if one else METHODS,
        precisions=[p for p in PRECISIONS if p in precisions] if one else tuple(PRECISIONS),
        context=context,
        tokens=tokens,
    )
    _print(answer, machine, as_json)


def _machine(memory: str | None) -> Machine:
    from slipway.core.hardware import probe
    from slipway.training.fit import Machine

    if memory is not None:
        found = re.fullmatch(r"([\d.]+)\s*([KMGT]?)(i?)B?", memory.strip(), re.IGNORECASE)
        if not found:
            raise UsageError(
                "fit.bad_memory",
                tr("`{text}` is not a size", text=memory),
                tr("write it as `24G` or `640GiB`"),
            )
        unit = found[2].upper()
        power = 1024 ** "KMGT".find(unit) * 1024 if found[3] else _UNITS[unit]
        return Machine(int(float(found[1]) * power), 2, "gpu")
    hardware = probe()
    if hardware.accelerators:
        return Machine(max(gpu.memory_bytes for gpu in hardware.accelerators), 2, "gpu")
    return Machine(hardware.memory_bytes, 2 if hardware.has_bf16 else 4, "cpu")


def _print(answer: Answer, machine: Machine, as_json: bool) -> None:
    from slipway.training.fit import count

    weights = count(answer.model.shape)
    if as_json:
        output.print_json(
            {
                "model": answer.model.name,
                "weights": weights.total,
                "active_weights": weights.active,
                "memory_bytes": machine.memory_bytes,
                "needs": [need.as_json() for need in answer.needs],
                "advice": [text.en for text in answer.advice],
            }
        )
        return
    print(
        tr(
            "{name}: {total:.2f}B weights ({active:.2f}B for each token); memory here: {size}",
            name=answer.model.name,
            total=weights.total / 1e9,
            active=weights.active / 1e9,
            size=output.size(machine.memory_bytes),
        )
    )
    uses = {"train": tr("train"), "run": tr("run")}
    rows = []
    for need in answer.needs:
        mark = tr("yes") if need.fits else tr("no")
        if need.fits and need.checkpointing:
            mark = tr("with checkpointing")
        elsewhere = need.rent or ("" if need.fits else tr("nothing common is large enough"))
        rows.append((uses[need.use], need.how, output.size(need.bytes), mark, elsewhere))
    output.print_table([tr("use"), tr("how"), tr("memory"), tr("fits here"), tr("rent")], rows)
    for text in answer.advice:
        print(f"→ {text}")


def _list(machine: Machine, as_json: bool) -> None:
    from slipway.training.fit import overview

    rows = overview(machine)
    if as_json:
        output.print_json(
            {
                "memory_bytes": machine.memory_bytes,
                "models": [
                    {
                        "model": known.name,
                        "weights": total,
                        "train": train.how if train else None,
                        "run": run.how if run else None,
                    }
                    for known, total, train, run in rows
                ],
            }
        )
        return
    print(tr("memory here: {size}", size=output.size(machine.memory_bytes)))
    output.print_table(
        [tr("model"), tr("weights"), tr("train with"), tr("run as")],
        [
            (
                known.name,
                f"{total / 1e9:.1f}B",
                train.how if train else "-",
                run.how if run else "-",
            )
            for known, total, train, run in rows
        ],
    )
