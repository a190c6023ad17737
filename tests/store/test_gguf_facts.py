from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest

from slipway.cli.main import main
from slipway.core.errors import InputError
from slipway.core.manifest import write_manifest
from slipway.core.paths import Home
from slipway.store import create_model, read_gguf, resolve_model
from slipway.store.gguf_facts import by_part, by_type, differences, faults, part_of


def write(
    path: Path,
    *,
    template: str = "{{ messages }}",
    bos: int = 0,
    more: bool = False,
    tokens: tuple[str, ...] = ("a", "b", "c"),
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(str(path), "llama", use_temp_file=False)
    writer.add_uint32("llama.context_length", 64)
    writer.add_token_list(list(tokens))
    writer.add_bos_token_id(bos)
    writer.add_chat_template(template)
    writer.add_tensor("token_embd.weight", np.ones((3, 64), dtype=np.float16))
    writer.add_tensor("blk.0.attn_q.weight", np.ones((64, 64), dtype=np.float32))
    writer.add_tensor("blk.0.attn_norm.weight", np.ones(64, dtype=np.float32))
    if more:
        writer.add_tensor("output.weight", np.ones((3, 64), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_tensors_are_counted_by_type_and_part(tmp_path: Path) -> None:
    header = read_gguf(write(tmp_path / "m.gguf"))
    kinds, parts = by_type(header), by_part(header)
    assert {key: (g.tensors, g.nbytes) for key, g in kinds.items()} == {
        "F32": (2, 64 * 64 * 4 + 64 * 4),
        "F16": (1, 3 * 64 * 2),
    }
    assert list(parts) == ["attention", "embedding", "norm"]
    assert parts["attention"].weights == 64 * 64
    assert faults(header) == []


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("blk.3.ffn_gate_exps.weight", "experts"),
        ("blk.3.attn_q_norm.weight", "norm"),
        ("output_norm.weight", "norm"),
        ("output.weight", "output"),
        ("rope_freqs.weight", "other"),
    ],
)
def test_parts_go_by_the_tensors_names(name: str, part: str) -> None:
    assert part_of(name) == part


def test_places_that_were_tampered_with_are_found(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", bos=7)
    header = read_gguf(path)
    assert faults(header) == ["the bos token 7 is not in the vocabulary of 3"]
    header.values["tokenizer.ggml.tokens"] = 5  # no list at all
    assert faults(header) == []
    data = bytearray(path.read_bytes())
    norm = data.index(b"blk.0.attn_norm.weight") + len("blk.0.attn_norm.weight") + 4 + 8 + 4
    data[norm : norm + 8] = (4).to_bytes(8, "little")  # into the embedding, off the alignment
    path.write_bytes(data)
    found = " ".join(faults(read_gguf(path)))
    assert "blk.0.attn_norm.weight is not aligned" in found and "overlap" in found


def test_headers_are_compared_key_by_key_and_the_template_line_by_line(tmp_path: Path) -> None:
    one = read_gguf(write(tmp_path / "a.gguf", template="first\nsecond"))
    two = read_gguf(write(tmp_path / "b.gguf", template="first\nother", bos=1, more=True))
    assert differences(one, one).none
    found = differences(one, two)
    assert found.changed == {"tokenizer.ggml.bos_token_id": ["0", "1"]}
    assert "-second" in found.template and "+other" in found.template
    assert found.tensors_added == ["output.weight"] and not found.tensors_removed


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.99])
def test_a_file_cut_anywhere_is_refused_and_makes_no_model(
    share: float, home: Home, tmp_path: Path
) -> None:
    path = write(tmp_path / "m.gguf")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    for command in (["gguf", "verify", str(path)], ["gguf", "inspect", str(path)]):
        assert main(command) != 0
    with pytest.raises(InputError):
        create_model("shop", f"FROM {path}", home=home)
    assert not home.models.exists() or not list(home.models.glob("blobs/sha256-*"))


def test_an_absurd_length_is_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + (3).to_bytes(4, "little") + (2**60).to_bytes(8, "little") * 2)
    with pytest.raises(InputError, match="above the limit"):
        read_gguf(path)


def flip(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-5, 2)
        byte = file.read(1)[0]
        file.seek(-5, 2)
        file.write(bytes([byte ^ 1]))


def test_a_flipped_bit_is_found_in_an_artefact_and_in_the_store(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "q" / "model.gguf")
    write_manifest(tmp_path / "q", "gguf", "m")
    assert main(["gguf", "verify", str(tmp_path / "q")]) == 0
    assert "as it was made" in capsys.readouterr().out
    blob = write(tmp_path / "plain.gguf")
    create_model("shop", f"FROM {blob}", home=home)
    assert main(["gguf", "verify", "shop"]) == 0
    for file, name in (
        (path, str(tmp_path / "q")),
        (resolve_model("shop", home=home).gguf_path, "shop"),
    ):
        file.chmod(0o644)
        flip(file)
        assert main(["gguf", "verify", name]) != 0
        assert "its content is sha256:" in capsys.readouterr().err


def test_the_commands_answer_in_json_and_diff_tells_by_its_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = write(tmp_path / "a.gguf"), write(tmp_path / "b.gguf", more=True)
    assert main(["gguf", "inspect", str(one), "--tensors", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["by_part"]["norm"]["tensors"] == 1 and len(facts["tensors"]) == 3
    assert main(["gguf", "diff", str(one), str(one)]) == 0
    assert main(["gguf", "diff", str(one), str(two)]) == 1
    assert "+ output.weight" in capsys.readouterr().out


def test_two_long_vocabularies_of_one_length_are_told_apart(tmp_path: Path) -> None:
    tokens = tuple(f"t{number:04}" for number in range(1500))
    swapped = (*tokens[:-2], tokens[-1], tokens[-2])
    one = read_gguf(write(tmp_path / "a.gguf", tokens=tokens))
    two = read_gguf(write(tmp_path / "b.gguf", tokens=swapped))
    same = read_gguf(write(tmp_path / "c.gguf", tokens=tokens))
    before, after = differences(one, two).changed["tokenizer.ggml.tokens"]
    assert before != after
    assert differences(one, same).none


def test_templates_that_differ_in_the_last_newline_alone_differ(tmp_path: Path) -> None:
    one = read_gguf(write(tmp_path / "a.gguf", template="first"))
    two = read_gguf(write(tmp_path / "b.gguf", template="first\n"))
    assert differences(one, two).template[-2:] == ["-'first'", "+'first\\n'"]
