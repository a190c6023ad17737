from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.ship.conftest import SYSTEM, another_run

from slipway.core.errors import (
    ConflictError,
    InputError,
    NotFoundError,
    ResourceError,
    ToolError,
    UsageError,
)
from slipway.core.manifest import read_manifest, verify_files
from slipway.core.paths import Home
from slipway.export import convert_to_gguf, merge_run, quantize
from slipway.ship import ShipOptions, Shipped, plan_ship, ship
from slipway.store import create_model, resolve_model, verify_model
from slipway.testing.gguf import write_gguf


def shipped(source: str = "shop", name: str = "shop:v1", **more: Any) -> Shipped:
    return ship(ShipOptions(source, name, **more))


def made(result: Shipped) -> list[str]:
    return [stage["name"] for stage in result.stages if not stage["cached"]]


def times(home: Home) -> dict[str, int]:
    files = [path for path in home.artefacts.rglob("*") if path.is_file()]
    return {str(path): path.stat().st_mtime_ns for path in files}


def test_a_run_becomes_a_name_whose_every_part_is_proved(run: Path, home: Home) -> None:
    result = shipped(types=("Q4_K_M", "q8_0"))
    assert list(result.names) == ["shop:v1", "shop:v1-q4_k_m", "shop:v1-q8_0"]
    for name in result.names:
        assert verify_model(name, home=home) == []
    model = resolve_model("shop:v1", home=home)
    assert model.system == SYSTEM
    assert model.lineage["artefact"]["config"]["type"]["value"] == "Q4_K_M"
    assert model.lineage["chain"]["ship"]["source"]["digest"] == read_manifest(run).digest
    manifests = [read_manifest(path.parent) for path in home.artefacts.rglob("manifest.json")]
    assert sorted(m.kind for m in manifests) == ["evaluation", "gguf", "merged", "quant", "quant"]
    merged = next(m for m in manifests if m.kind == "merged")
    assert merged.metrics["kl_mean"] < 0.01
    assert next(m for m in manifests if m.kind == "gguf").notes["proof"]["template"] is True
    assert result.levels["Q4_K_M"]["size_bytes"] < result.levels["Q8_0"]["size_bytes"]
    assert (
        resolve_model("shop:v1-q8_0", home=home).gguf_path.stat().st_size
        == (result.levels["Q8_0"]["size_bytes"])
    )


def test_a_second_call_does_nothing_and_another_type_only_that_type(run: Path, home: Home) -> None:
    first = shipped()
    before = times(home)
    again = shipped()
    assert again.unchanged and again.names == first.names and times(home) == before
    more = shipped(types=("Q4_K_M", "Q8_0"))
    assert not more.unchanged
    changed = {path for path in times(home) if times(home)[path] != before.get(path)}
    assert changed and all("/Q8_0/" in path or "quality" in path for path in changed)


def test_a_failed_ship_goes_on_behind_its_last_whole_stage(
    run: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **more: Any) -> None:
        raise ToolError("test.broken", "the quantiser died")

    with monkeypatch.context() as patch:
        patch.setattr("slipway.export.quantise.run._one", broken)
        with pytest.raises(ToolError, match="died"):
            shipped()
    before = times(home)
    with pytest.raises(NotFoundError):
        resolve_model("shop:v1", home=home)
    result = shipped()
    assert made(result) == ["toolchain", "quantise", "measure", "create"]
    assert before.items() <= times(home).items()


def test_a_damaged_product_is_made_again_and_not_used(run: Path, home: Home) -> None:
    shipped()
    gguf = next(home.artefacts.glob("*-f32/model.gguf"))
    gguf.write_bytes(gguf.read_bytes()[:1000])
    result = shipped(types=("Q8_0",), force=True)
    assert "convert" in made(result)
    for path in home.artefacts.rglob("manifest.json"):
        assert verify_files(path.parent, read_manifest(path.parent)) == []


def test_a_taken_name_is_kept_unless_force_is_given(run: Path, home: Home, tmp_path: Path) -> None:
    other = create_model("shop:v1", f"FROM {write_gguf(tmp_path / 'm.gguf')}\n", home=home)
    with pytest.raises(ConflictError) as caught:
        shipped()
    assert "shop:v1" in caught.value.message_en and "--force" in caught.value.hint_en
    assert not home.artefacts.exists()  # told before the work
    assert resolve_model("shop:v1", home=home).digest == other.digest
    shipped(force=True)
    assert resolve_model("shop:v1", home=home).digest != other.digest


def test_a_run_trained_again_is_another_model_and_leaves_the_old_products(
    run: Path, home: Home
) -> None:
    old = shipped()
    another_run(run)
    with pytest.raises(ConflictError):
        shipped()
    new = shipped(name="shop:v2")
    assert new.artefacts["merge"] != old.artefacts["merge"]
    for folder in (*old.artefacts.values(), *new.artefacts.values()):
        assert verify_files(Path(folder), read_manifest(Path(folder))) == []


def test_what_was_made_by_hand_is_taken_over(run: Path, home: Home) -> None:
    merged = home.artefacts / "shop-merged"
    merge_run(run, merged)
    convert_to_gguf(merged, home.artefacts / "shop-merged-f32", outtype="f32", home=home)
    quants = home.artefacts / "shop-merged-f32-quants"
    quantize(home.artefacts / "shop-merged-f32", ["Q4_K_M"], quants, home=home)
    before = times(home)
    result = shipped(measure=False)
    assert times(home) == before
    assert result.levels["Q4_K_M"]["folder"] == str(quants / "Q4_K_M")


def test_a_merged_model_and_a_gguf_are_shipped_with_the_prompt_of_their_run(
    run: Path, home: Home
) -> None:
    first = shipped()
    for number, (stage, stages) in enumerate((("merge", ["convert"]), ("convert", []))):
        name = f"again:v{number}"
        result = shipped(first.artefacts[stage], name)
        done = [stage["name"] for stage in result.stages]
        assert done == ["toolchain", *stages, "quantise", "measure", "create"]
        assert resolve_model(name, home=home).system == SYSTEM
    by_name = shipped(Path(first.artefacts["convert"]).name, "again:v2", system="")
    assert by_name.system == ""


def test_clean_removes_only_what_this_ship_made_and_the_name_stands(
    run: Path, home: Home, tmp_path: Path
) -> None:
    merge_run(run, home.artefacts / "shop-merged")
    result = shipped(clean=True, measure=False)
    assert [Path(folder).name for folder in result.cleaned] == ["shop-merged-f32", "Q4_K_M"]
    assert [path.name for path in home.artefacts.iterdir()] == ["shop-merged"]
    assert verify_model("shop:v1", home=home) == []
    assert shipped(measure=False).unchanged


def test_the_plan_says_what_is_there_and_what_it_takes(run: Path, home: Home) -> None:
    _, plan = plan_ship(ShipOptions("shop", "shop:v1"))
    assert [item.state for item in plan.products] == ["make"] * 3
    assert not home.artefacts.exists() and not home.models.exists()
    planned = {item.stage: item.size_bytes for item in plan.products}
    shipped()
    _, plan = plan_ship(ShipOptions("shop", "shop:v1", types=("Q4_K_M", "Q8_0")))
    assert [item.state for item in plan.products] == ["reuse"] * 3 + ["make"]
    assert plan.names["shop:v1"] == ("Q4_K_M", "same")
    assert plan.names["shop:v1-q8_0"] == ("Q8_0", "new")
    for item in plan.products[:3]:
        assert abs(planned[item.stage] - item.size_bytes) < 17_000_000
    size = shipped(types=("Q4_K_M", "Q8_0")).levels["Q8_0"]["size_bytes"]
    assert (plan.products[-1].size_bytes, plan.products[-1].exact) == (size, True)


def test_a_disk_too_small_is_told_before_anything_is_made(
    run: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1_000_000})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ResourceError, match="1 MB free"):
        shipped()
    assert not home.artefacts.exists()


def test_last_is_the_newest_finished_run_and_wrong_names_are_told(run: Path, home: Home) -> None:
    context, _ = plan_ship(ShipOptions("last", "shop:v1"))
    assert context.source.folder == run
    with pytest.raises(NotFoundError, match="shp") as caught:
        plan_ship(ShipOptions("shp", "shop:v1"))
    assert "`shop`" in caught.value.hint_en
    with pytest.raises(UsageError, match="Q4_K_X"):
        plan_ship(ShipOptions("shop", "shop:v1", types=("Q4_K_X",)))
    quant = shipped().levels["Q4_K_M"]["folder"]
    with pytest.raises(InputError, match="quantised already"):
        plan_ship(ShipOptions(quant, "shop:v3"))
    (run / "manifest.json").unlink()
    with pytest.raises(ConflictError, match="not finished"):
        plan_ship(ShipOptions("shop", "shop:v4"))


def test_rows_with_different_prompts_give_none_and_say_so(
    run: Path, trained: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(trained / "data", tmp_path / "data")
    text = (data / "train.jsonl").read_text()
    (data / "train.jsonl").write_text(text.replace(SYSTEM, "be kind.", 1))
    recipe = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(recipe.replace(str(trained / "data"), str(data)))
    another_run(run)
    context, _ = plan_ship(ShipOptions("shop", "shop:v1"))
    assert context.system.text == "" and "2 different" in str(context.system.warning)
    shutil.rmtree(data)
    context, _ = plan_ship(ShipOptions("shop", "shop:v1"))
    assert "--system" in str(context.system.warning)
    context, _ = plan_ship(ShipOptions("shop", "shop:v1", system="be brief."))
    assert (context.system.text, context.system.warning) == ("be brief.", None)
