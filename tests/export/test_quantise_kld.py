"""The search of a type by its measured distance from the source."""

from __future__ import annotations

from pathlib import Path

import pytest

from slipway.cli.main import main
from slipway.core.errors import NotFoundError
from slipway.core.paths import Home
from slipway.export import convert_to_gguf
from slipway.export.measure import TextSpec
from slipway.export.quantise import find_for_kld
from slipway.export.quantise.kld import bisect
from slipway.export.toolchain import Toolchain
from slipway.testing.tiny import tiny_model

RUNGS = [str(number) for number in range(10)]


@pytest.mark.parametrize("answer", range(11))
def test_bisection_finds_the_first_rung_below_the_limit_in_few_measurements(answer: int) -> None:
    asked: list[str] = []

    def measure(rung: str) -> float:
        asked.append(rung)
        return 0.5 if int(rung) >= answer else 2.0

    assert bisect(RUNGS, measure, 1.0) == (str(answer) if answer < 10 else None)
    assert len(set(asked)) == len(asked) <= 4


def test_a_target_that_cannot_be_reached_was_measured_on_the_best_rung() -> None:
    asked: list[str] = []

    def measure(rung: str) -> float:
        asked.append(rung)
        return 9.0

    assert bisect(RUNGS, measure, 1.0) is None
    assert asked[-1] == RUNGS[-1]


@pytest.mark.slow
def test_every_measurement_is_kept_and_the_choice_is_below_the_limit(
    tools: Toolchain, home: Home, tmp_path: Path
) -> None:
    convert_to_gguf(tiny_model(tmp_path / "tiny"), tmp_path / "gguf", outtype="f32", home=home)
    text = tmp_path / "text.txt"
    text.write_text("Where is my parcel? It was due a week ago. " * 300)
    spec = TextSpec(text, 64, 4)
    near = find_for_kld(tmp_path / "gguf", 1e-12, spec, tmp_path, home=home)
    assert near.type is None
    assert near.best.kld > 1e-12
    limit = max(one.kld for one in near.measured) * 2
    found = find_for_kld(tmp_path / "gguf", limit, spec, tmp_path, home=home)
    chosen = next(one for one in found.measured if one.type == found.type)
    assert chosen.kld <= limit
    assert isinstance(found.options.target, dict)
    assert len(found.options.target["measured"]) == len(found.measured)
    assert not list(tmp_path.glob("kld-*"))
    with pytest.raises(NotFoundError):
        find_for_kld(tmp_path / "gguf", 1, TextSpec(tmp_path / "no", 64, 4), tmp_path, home=home)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--target-kld", "0.02"], "needs `--text FILE`"),
        (["--text", "t.txt"], "needs `--target-kld`"),
        (["--target-kld", "0.02", "--target-bpw", "4"], "exclude each other"),
        (["--target-kld", "0.02", "--text", "t.txt", "--dry-run"], "exclude each other"),
        (["--target-kld", "0.02", "--text", "t.txt", "--calibration", "c"], "exclude each other"),
    ],
)
def test_targets_that_make_no_sense_are_refused(
    arguments: list[str], said: str, home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["quantize", str(tmp_path), *arguments]) == 2
    assert said in capsys.readouterr().err
