from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from slipway.cli.commands.store import store as store_command
from slipway.core.errors import ConflictError, NotFoundError, ProofError
from slipway.core.paths import Home
from slipway.store import copy_model, create_model, list_models, remove_model, resolve_model
from slipway.store.import_store import import_models
from slipway.store.manifests import ManifestStore
from slipway.store.upkeep import check_store, prune_store
from slipway.testing.gguf import write_gguf


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    gguf = write_gguf(tmp_path / "shop.gguf")
    create_model("shop:q4", f"FROM {gguf}\nSYSTEM Be short.", home=home)
    return home


def spoil(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.chmod(0o644)
    path.unlink()
    path.write_bytes(bytes(data))


def test_a_sound_store_is_sound(home: Home) -> None:
    report = check_store(home)
    assert report.sound
    assert (report.models, report.unused, report.partial) == (1, [], [])


def test_damage_missing_blobs_and_broken_manifests_are_found(home: Home) -> None:
    model = resolve_model("shop:q4", home=home)
    spoil(model.gguf_path)
    assert check_store(home).damaged == [model.layers[0].digest]
    model.gguf_path.unlink()
    assert check_store(home).dangling == [f"shop:q4: {model.layers[0].digest}"]
    (ManifestStore(home.models).folder / model.name.path).write_text("{")
    report = check_store(home)
    assert (report.sound, len(report.unreadable)) == (False, 1)


def test_prune_takes_what_no_name_uses_and_spares_what_is_new(home: Home) -> None:
    blobs = ManifestStore(home.models).blobs
    orphan = blobs.put_bytes(b"nobody's")
    partial = blobs.folder / ("sha256-" + "0" * 64 + "-partial")
    partial.write_bytes(b"x" * 5000)
    assert prune_store(home) == ([], 0)
    gone, freed = prune_store(home, grace_s=0)
    assert sorted(gone) == sorted([orphan.digest.replace(":", "-"), partial.name])
    assert freed >= 5000
    assert check_store(home).sound


def test_prune_deletes_nothing_while_a_manifest_cannot_be_read(home: Home) -> None:
    model = resolve_model("shop:q4", home=home)
    (ManifestStore(home.models).folder / model.name.path).write_text("{")
    with pytest.raises(ConflictError, match="nothing was deleted"):
        prune_store(home, grace_s=0)
    assert model.gguf_path.exists()


def test_blobs_go_with_the_last_name_that_uses_them(home: Home) -> None:
    copy_model("shop:q4", "two:q4", home=home)
    assert remove_model("SHOP:Q4", home=home) == 0
    assert check_store(home).sound
    assert remove_model("two:q4", home=home) > 0
    assert check_store(home).blobs == 0


def test_models_of_ollamas_store_are_taken_over_without_a_copy(home: Home, tmp_path: Path) -> None:
    other = Home(tmp_path / "other")
    (taken,) = import_models(home.models, home=other)
    assert taken.copied_bytes == 0
    theirs = resolve_model("shop:q4", home=home)
    assert taken.model.digest == theirs.digest
    assert taken.model.gguf_path.samefile(theirs.gguf_path)
    remove_model("shop:q4", home=home)
    assert check_store(other).sound


def test_a_damaged_blob_is_not_taken_over(home: Home, tmp_path: Path) -> None:
    spoil(resolve_model("shop:q4", home=home).gguf_path)
    other = Home(tmp_path / "other")
    with pytest.raises(ProofError, match="damaged"):
        list(import_models(home.models, ("shop:q4",), home=other))
    assert list_models(other) == []
    with pytest.raises(NotFoundError, match="not found"):
        list(import_models(home.models, ("other",), home=other))
    with pytest.raises(NotFoundError, match="no model store"):
        list(import_models(tmp_path / "nothing", home=other))


def test_the_commands_tell_it_with_an_exit_code(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path / "mine"))
    source = ["import", "--from", str(home.models), "--json"]
    (row,) = json.loads(CliRunner().invoke(store_command, source).stdout)
    assert (row["name"], row["copied_bytes"]) == ("shop:q4", 0)
    run = CliRunner().invoke(store_command, ["check", "--json"])
    assert (run.exit_code, json.loads(run.stdout)["sound"]) == (0, True)
    resolve_model("shop:q4", home=Home.current()).gguf_path.unlink()
    run = CliRunner().invoke(store_command, ["check"])
    assert run.exit_code == 1
    assert "missing: shop:q4" in run.stdout
    run = CliRunner().invoke(store_command, ["prune", "--json"])
    assert json.loads(run.stdout) == {"deleted": [], "freed_bytes": 0}


def test_create_and_rm_killed_at_any_time_leave_no_dangling_name(
    home: Home, tmp_path: Path
) -> None:
    gguf = write_gguf(tmp_path / "big.gguf")
    with gguf.open("ab") as file:
        file.write(os.urandom(20_000_000))
    program = (
        "import sys; from pathlib import Path; from slipway.core.paths import Home;"
        "from slipway.store import create_model, remove_model\n"
        "home = Home(Path(sys.argv[1]))\nprint('ready', flush=True)\n"
        "while True:\n"
        "    create_model('big:q4', 'FROM ' + sys.argv[2], home=home)\n"
        "    remove_model('big:q4', home=home)\n"
    )
    for number in range(12):
        child = subprocess.Popen(
            [sys.executable, "-c", program, str(home.root), str(gguf)], stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(0.013 * number)
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        child.stdout.close()
        report = check_store(home)
        assert report.sound, (number, report)
    prune_store(home, grace_s=0)
    report = check_store(home)
    assert (report.sound, report.unused, report.partial) == (True, [], [])
