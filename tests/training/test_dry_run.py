from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from slipway.cli.main import main
from slipway.core.errors import InputError
from slipway.core.paths import Home
from slipway.training import load_recipe
from slipway.training.dry_run import dry_run, histogram


@pytest.fixture
def recipe(base: Path, data: Path, tmp_path: Path) -> Path:
    path = tmp_path / "shop.yaml"
    path.write_text(
        f"model: {base}\ndata: {data}\nmax_steps: 6\nbatch_tokens: 256\nthreads: 1\n"
        "dtype: fp32\nlora: {rank: 4}\n"
    )
    return path


def test_a_dry_run_says_what_the_run_will_be(recipe: Path, home: Home) -> None:
    found = dry_run(load_recipe(recipe))
    data, estimate = found.data, found.estimate
    assert (data.documents, data.heldout, data.skipped) == (24, 6, 0)
    assert 0 < data.label_tokens < data.tokens
    assert sum(n for _, n in data.histogram) == 24
    assert estimate.work.steps == 6 and found.fits
    assert (
        estimate.trained
        == 4 * sum(a + b for a, b in [(64, 64), (64, 32), (64, 32), (64, 64), *[(64, 192)] * 3]) * 2
    )
    assert all(value >= 0 for value in estimate.memory.as_json().values())
    assert estimate.seconds.total > 0
    assert not home.runs.exists()  # nothing was trained


def test_the_preview_shows_answers_as_learned_and_nothing_else(recipe: Path) -> None:
    row = dry_run(load_recipe(recipe)).data.preview[0]
    learned = "".join(piece.text for piece in row if piece.learned)
    given = "".join(piece.text for piece in row if not piece.learned)
    assert learned.startswith("yes, you can return the cup") and "can i return my cup" in given
    assert "assistant" in given and "assistant" not in learned


def test_the_weights_of_the_base_are_never_read_and_the_kernel_caches_are_bound(
    recipe: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    # bound before the first product, which is the estimate's
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "1")  # so that it is put back
    monkeypatch.delenv("LRU_CACHE_CAPACITY")
    bare = tmp_path / "bare"
    shutil.copytree(base, bare, ignore=shutil.ignore_patterns("*.safetensors"))
    assert dry_run(load_recipe(recipe, [f"model={bare}"])).estimate.weights > 100_000
    assert int(os.environ["LRU_CACHE_CAPACITY"]) < 1024


def test_rounded_weights_are_counted_only_where_they_are_made(recipe: Path) -> None:
    def packed(*keys: str) -> int:
        return dry_run(load_recipe(recipe, list(keys))).estimate.memory.as_json()["packed"]

    plain, full = packed(), packed("method=full")
    recipe.write_text(recipe.read_text() + "quant_aware: q4_0\n")
    assert packed() > plain
    # a method given by flag leaves the file's key without effect, and without cost
    assert packed("method=full") == full


def test_a_cutoff_that_leaves_nothing_to_learn_is_found(recipe: Path) -> None:
    with pytest.raises(InputError) as caught:
        dry_run(load_recipe(recipe, ["cutoff_len=8"]))
    assert caught.value.code in ("train.no_label", "data.nothing_to_learn")


def test_the_command_prints_it_for_people_and_as_json(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(recipe), "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "lora.rank\t4\tfile" in told and "⟦yes, you can return" in told and "it fits" in told
    assert main(["train", str(recipe), "seed=5", "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["settings"]["seed"] == {"value": 5, "origin": "flag"}
    assert found["estimate"]["memory_bytes"]["total"] > 0


def test_a_histogram_counts_every_length_once() -> None:
    assert histogram([], 10) == ()
    assert histogram([1, 8, 9, 16, 400], 16) == (
        (2, 1),
        (4, 0),
        (6, 0),
        (8, 1),
        (10, 1),
        (12, 0),
        (14, 0),
        (16, 2),
    )


def test_a_run_is_estimated_at_its_start_and_compared_at_its_end(
    recipe: Path, tmp_path: Path
) -> None:
    from slipway.core.events import EventLog
    from slipway.training import train

    told: list[dict[str, object]] = []
    result = train(
        load_recipe(recipe), run_dir=tmp_path / "run", events=EventLog(None, told.append)
    )
    note = result.manifest.notes["estimate"]
    assert note["steps"] == result.metrics["steps"] == 6
    compared = note["compared"]
    assert compared["memory_bytes_measured"] == result.metrics["peak_memory_bytes"]
    assert compared["memory_ratio"] == pytest.approx(
        note["memory_bytes"]["total"] / compared["memory_bytes_measured"], abs=1e-3
    )
    kinds = [("estimate" in event, "comparison" in event) for event in told]
    assert kinds.index((True, False)) < kinds.index((False, True))
