from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from slipway.core.errors import ConflictError, InputError, NotFoundError, ResourceError
from slipway.core.manifest import write_manifest
from slipway.core.paths import Home
from slipway.store import (
    create_model,
    list_models,
    parse_modelfile,
    remove_model,
    render_modelfile,
    resolve_model,
    verify_model,
)
from slipway.testing.gguf import write_gguf


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "m.gguf")


def blobs(home: Home) -> set[str]:
    return {p.name for p in (home.models / "blobs").iterdir()}


def test_the_layout_on_disk_is_ollamas(home: Home, gguf: Path) -> None:
    model = create_model("shop:q4", f"FROM {gguf}\nSYSTEM hi\nPARAMETER top_k 5", home=home)
    raw = json.loads(
        (home.models / "manifests/registry.ollama.ai/library/shop/q4").read_text("utf-8")
    )
    assert raw["schemaVersion"] == 2
    assert raw["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"
    kinds = [
        layer["mediaType"].removeprefix("application/vnd.ollama.image.") for layer in raw["layers"]
    ]
    assert kinds == ["model", "system", "params"]
    for layer in [raw["config"], *raw["layers"]]:
        blob = home.models / "blobs" / layer["digest"].replace(":", "-")
        assert blob.stat().st_size == layer["size"]
    assert model.details["model_family"] == "llama"
    assert model.details["file_type"] == "Q4_K_M"
    assert verify_model("shop:q4", home=home) == []


def test_a_users_file_is_copied_and_an_artefact_of_ours_is_linked(
    home: Home, gguf: Path, tmp_path: Path
) -> None:
    copied = create_model("a", f"FROM {gguf}", home=home).gguf_path
    assert not copied.samefile(gguf)
    folder = tmp_path / "quant"
    ours = write_gguf(folder / "q.gguf", context_length=99)
    write_manifest(folder, "quant", "q", parents={"gguf": "sha256:parent"})
    model = create_model("b", f"FROM {folder}", home=home, lineage={"run": "r1"})
    assert model.gguf_path.samefile(ours)
    assert model.lineage["artefact"]["parents"] == {"gguf": "sha256:parent"}
    assert model.lineage["chain"] == {"run": "r1"}
    assert resolve_model("b", home=home).lineage == model.lineage


def test_from_a_model_inherits_and_new_lines_win(home: Home, gguf: Path) -> None:
    create_model(
        "base",
        f"FROM {gguf}\nSYSTEM old\nPARAMETER top_k 5\nPARAMETER seed 1\nLICENSE MIT",
        home=home,
    )
    model = create_model("child", "FROM BASE:latest\nSYSTEM new\nPARAMETER seed 2", home=home)
    assert model.system == "new"
    assert model.parameters == {"top_k": 5, "seed": 2}
    assert model.licenses == ["MIT"]


def test_the_modelfile_of_a_model_makes_it_again(home: Home, gguf: Path) -> None:
    text = (
        f'FROM {gguf}\nSYSTEM """a\n"b" c"""\nPARAMETER stop x\nPARAMETER stop y\nMESSAGE user hi'
    )
    first = create_model("one", text, home=home)
    again = create_model("two", render_modelfile(first), home=home)
    assert again.digest == first.digest
    assert parse_modelfile(render_modelfile(again)).system == 'a\n"b" c'


def test_lookup_ignores_case_and_keeps_the_first_spelling(home: Home, gguf: Path) -> None:
    create_model("Shop:Q4", f"FROM {gguf}", home=home)
    create_model("shop:q4", f"FROM {gguf}\nSYSTEM new", home=home)
    assert [m.name.display for m in list_models(home)] == ["Shop:Q4"]
    assert resolve_model("SHOP:q4", home=home).system == "new"


def test_removing_a_name_keeps_what_others_use(home: Home, gguf: Path) -> None:
    create_model("a", f"FROM {gguf}\nSYSTEM one", home=home)
    create_model("b", f"FROM {gguf}\nSYSTEM two", home=home)
    assert 0 < remove_model("a", home=home) < gguf.stat().st_size
    assert verify_model("b", home=home) == []
    assert remove_model("b", home=home) > gguf.stat().st_size
    assert blobs(home) == set()
    assert list((home.models / "manifests").iterdir()) == []
    with pytest.raises(NotFoundError):
        remove_model("b", home=home)


def test_a_damaged_manifest_is_reported_and_costs_no_blobs(home: Home, gguf: Path) -> None:
    create_model("a", f"FROM {gguf}", home=home)
    create_model("b", f"FROM {gguf}\nSYSTEM x", home=home)
    (home.models / "manifests/registry.ollama.ai/library/b/latest").write_text("{", "utf-8")
    problems: list = []
    assert [m.name.display for m in list_models(home, problems=problems)] == ["a:latest"]
    assert problems[0].code == "store.bad_manifest"
    assert remove_model("a", home=home) == 0
    assert len(blobs(home)) >= 2
    remove_model("b", home=home)
    assert list_models(home) == []


def test_a_missing_blob_is_named_instead_of_served(home: Home, gguf: Path) -> None:
    model = create_model("a", f"FROM {gguf}", home=home)
    model.gguf_path.write_bytes(b"short")
    with pytest.raises(ConflictError, match="missing or damaged"):
        resolve_model("a", home=home)


def test_a_blob_with_other_content_is_found_by_verify(home: Home, gguf: Path) -> None:
    model = create_model("a", f"FROM {gguf}", home=home)
    data = bytearray(model.gguf_path.read_bytes())
    data[-1] ^= 1
    model.gguf_path.write_bytes(data)
    assert verify_model("a", home=home) == ["sha256:" + model.gguf_path.name[7:]]


@pytest.mark.parametrize(
    ("from_", "error", "what"),
    [
        ("./none.gguf", NotFoundError, "does not exist"),
        ("nobody:q4", NotFoundError, "neither a file nor a model"),
        ("empty", InputError, "holds no GGUF"),
        ("two", InputError, "holds 2 GGUF files"),
        ("text.gguf", InputError, "not a usable GGUF"),
    ],
)
def test_a_bad_from_is_one_clear_error_and_leaves_nothing(
    home: Home, tmp_path: Path, from_: str, error: type[Exception], what: str
) -> None:
    (tmp_path / "empty").mkdir()
    write_gguf(tmp_path / "two" / "a.gguf")
    write_gguf(tmp_path / "two" / "b.gguf")
    (tmp_path / "text.gguf").write_text("hello", "utf-8")
    modelfile = tmp_path / "Modelfile"
    modelfile.write_text(f"# x\nFROM {from_}\n", "utf-8")
    with pytest.raises(error, match=what):
        create_model("a", modelfile, home=home)
    assert list_models(home) == []


def test_an_unknown_name_offers_the_nearest(home: Home, gguf: Path) -> None:
    create_model("shop:q4", f"FROM {gguf}", home=home)
    with pytest.raises(NotFoundError) as caught:
        resolve_model("shop:q5", home=home)
    assert caught.value.message_en == "model 'shop:q5' not found"
    assert "`shop:q4`" in caught.value.hint_en


def test_a_full_disk_is_one_error_and_leaves_nothing(
    home: Home, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError) as caught:
        create_model("a", f"FROM {gguf}", home=home)
    assert caught.value.code == "disk.full"
    assert blobs(home) == set()
    assert list_models(home) == []


_KILLED = """
import os, signal, sys
from pathlib import Path
from slipway.core.paths import Home
from slipway.store import blobs, create_model
count = 0
real = blobs.BlobStore._adopt
def adopt(self, temporary, blob):
    global count
    if count == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    count += 1
    real(self, temporary, blob)
blobs.BlobStore._adopt = adopt
create_model("a", f"FROM {sys.argv[1]}\\nSYSTEM new", home=Home.current())
"""


@pytest.mark.parametrize("moment", [0, 1, 2])
def test_a_kill_at_any_blob_leaves_the_old_model_and_the_next_run_succeeds(
    home: Home, gguf: Path, tmp_path: Path, moment: int
) -> None:
    create_model("a", f"FROM {gguf}\nSYSTEM old", home=home)
    other = write_gguf(tmp_path / "other.gguf", context_length=77)
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(other), str(moment)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert resolve_model("a", home=home).system == "old"
    assert verify_model("a", home=home) == []
    create_model("a", f"FROM {other}\nSYSTEM new", home=home)
    assert resolve_model("a", home=home).system == "new"
    assert verify_model("a", home=home) == []


def test_a_go_template_gives_its_abilities_and_a_wrong_one_is_refused_with_its_line(
    home: Home, gguf: Path
) -> None:
    text = "{{ range .Messages }}{{ .Content }}{{ end }}{{ if .Tools }}{{ .Tools }}{{ end }}"
    made = create_model("go", f'FROM {gguf}\nTEMPLATE """{text}"""', home=home)
    assert made.template == text
    assert made.details["capabilities"] == ["completion", "tools"]
    broken = f'FROM {gguf}\nTEMPLATE """{{{{ range .Messages }}}}\n{{{{ .Content | nofunc }}}}"""'
    with pytest.raises(InputError, match=r":2: TEMPLATE, its line 2: function 'nofunc'"):
        create_model("bad", broken, home=home)


@pytest.mark.parametrize("stop", ['"', '<|"|>', "\n\n", 'say "stop"'])
def test_a_stop_text_with_quotes_survives_being_written_as_a_modelfile(
    home: Home, gguf: Path, stop: str
) -> None:
    text = f'FROM {gguf}\nPARAMETER stop """{stop}"""\nPARAMETER top_k 3'
    again = parse_modelfile(render_modelfile(create_model("a", text, home=home)))
    assert again.parameters == {"stop": [stop], "top_k": 3}


def test_a_manifest_of_another_program_beside_the_gguf_is_no_hindrance(
    home: Home, gguf: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (gguf.parent / "manifest.json").write_text('{"name": "web app"}', "utf-8")
    assert create_model("a", f"FROM {gguf}", home=home).lineage == {}
    assert "no lineage" in caplog.text


def test_an_adapter_is_a_layer_of_the_model_and_must_fit_it(home: Home, tmp_path: Path) -> None:
    model = write_gguf(tmp_path / "m.gguf")
    kind = {"general.type": "adapter"}
    write_gguf(tmp_path / "lora" / "adapter.gguf", extra=kind)
    text = f"FROM {model}\nADAPTER {tmp_path}/lora\n"
    made = create_model("a", text, home=home)
    (path,) = made.adapter_paths
    assert path.read_bytes() == (tmp_path / "lora" / "adapter.gguf").read_bytes()
    assert made.of_type("application/vnd.ollama.image.adapter")[0].size == path.stat().st_size
    again = create_model("b", render_modelfile(made), home=home)
    assert again.adapter_paths == made.adapter_paths
    assert create_model("c", "FROM a\nSYSTEM x\n", home=home).adapter_paths == made.adapter_paths
    write_gguf(tmp_path / "other.gguf", architecture="qwen2", extra=kind)
    for name, error, what in (
        ("none.gguf", NotFoundError, "does not exist"),
        ("m.gguf", InputError, "no GGUF adapter"),
        ("other.gguf", InputError, "`qwen2`"),
        (".", InputError, "one GGUF adapter"),
    ):
        with pytest.raises(error, match=what) as caught:
            create_model("d", f"FROM {model}\nADAPTER {tmp_path / name}\n", home=home)
        assert "Modelfile:2" in caught.value.message_en
