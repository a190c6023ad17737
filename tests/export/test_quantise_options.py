from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.export.test_quantise_run import fake, gguf  # noqa: F401

from slipway.core.errors import InputError, UsageError
from slipway.core.manifest import write_manifest
from slipway.core.paths import Home
from slipway.export import quantize
from slipway.export.quantise import Options, parse_options, plan_quantize
from slipway.testing.toolchain import FakeToolchain


def test_options_become_the_tools_arguments() -> None:
    options = parse_options(
        pure=True,
        output_type="q6_k",
        embedding_type="Q8_0",
        tensor_types=["attn_v=q8_0", r"blk\.0\.=f16"],
        keep_split=True,
        allow_requantize=True,
    )
    assert options.arguments() == [
        *("--allow-requantize", "--pure", "--keep-split"),
        *("--output-tensor-type", "Q6_K", "--token-embedding-type", "Q8_0"),
        *("--tensor-type", "attn_v=Q8_0", "--tensor-type", r"blk\.0\.=F16"),
    ]


@pytest.mark.parametrize(
    ("given", "message", "hint"),
    [
        ({"tensor_types": ["attn_v=Q4_K_M"]}, "unknown quant type", "`Q4_K`"),
        ({"tensor_types": ["attn_v"]}, "REGEX=TYPE", "attn_v=Q8_0"),
        ({"tensor_types": ["attn_(v=Q8_0"]}, "regular expression", "attn_v=Q8_0"),
        ({"tensor_types": [r"\S+v=Q8_0"]}, "lower case", "become its opposite"),
        ({"output_type": "Q9"}, "unknown quant type", ""),
        ({"leave_output": True, "output_type": "Q8_0"}, "exclude", "leave one"),
    ],
)
def test_wrong_options_are_named(given: dict[str, object], message: str, hint: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        parse_options(**given)  # type: ignore[arg-type]
    assert hint in caught.value.hint_en


def test_the_folder_tells_a_changed_mixture() -> None:
    assert Options().label("Q4_K_M") == "Q4_K_M"
    assert Options(threads=2, without_imatrix=True).label("Q4_K_M") == "Q4_K_M"
    assert parse_options(pure=True).label("Q4_K_M") == "Q4_K_M-pure"
    first = parse_options(tensor_types=["attn_v=q8_0"]).label("Q4_K_M")
    assert re.fullmatch(r"Q4_K_M-mix-[0-9a-f]{6}", first)
    assert first != parse_options(tensor_types=["attn_v=q6_k"]).label("Q4_K_M")


def test_an_override_that_finds_or_does_nothing_is_an_error(
    gguf: Path,  # noqa: F811
    fake: FakeToolchain,  # noqa: F811
    home: Home,
    tmp_path: Path,
) -> None:
    for pattern, message in (("token_emb_=Q8_0", "finds no tensor"), ("norm=Q8_0", "does nothing")):
        with pytest.raises(UsageError, match=message):
            quantize(
                gguf,
                ["Q4_K_M"],
                tmp_path / "out",
                home=home,
                options=parse_options(tensor_types=[pattern]),
            )
    assert not (tmp_path / "out").exists()


def test_a_plan_tells_what_overrides_hit(
    gguf: Path,  # noqa: F811
    fake: FakeToolchain,  # noqa: F811
    home: Home,
) -> None:
    options = parse_options(tensor_types=["token_embd=q8_0"])
    (plan,) = plan_quantize(gguf, ["Q4_K_M"], home=home, options=options).values()
    assert plan.hits == {"token_embd=Q8_0": ["token_embd.weight"]}
    assert plan.bpw == pytest.approx((32 * 2 * 34 + 64 * 4) * 8 / (32 * 64 + 64))


def test_types_whose_blocks_do_not_fit_the_rows_are_refused(
    gguf: Path,  # noqa: F811
    fake: FakeToolchain,  # noqa: F811
    home: Home,
) -> None:
    script = (fake.bin / "llama-quantize").read_text().replace("(q8_0)", "(q4_K)")
    (fake.bin / "llama-quantize").write_text(script)
    with pytest.raises(UsageError, match="multiple of 256, but token_embd"):
        plan_quantize(gguf, ["Q4_K_M"], home=home, options=parse_options(embedding_type="q4_k"))


def test_a_quantised_source_is_refused_unless_allowed(
    gguf: Path,  # noqa: F811
    fake: FakeToolchain,  # noqa: F811
    home: Home,
    tmp_path: Path,
) -> None:
    made = quantize(gguf, ["Q8_0"], tmp_path / "out", home=home)
    assert made["Q8_0"].kind == "quant"
    with pytest.raises(InputError, match="quantised already, to Q8_0"):
        quantize(tmp_path / "out" / "Q8_0", ["Q4_K_M"], tmp_path / "again", home=home)

    script = (fake.bin / "llama-quantize").read_text()
    (fake.bin / "llama-quantize").write_text(script.replace("  bf16", "q4_0"))
    with pytest.raises(InputError, match=r"1 tensors, as Q4_0"):
        quantize(gguf, ["Q8_0"], tmp_path / "again", home=home)
    assert not (tmp_path / "again").exists()
    options = Options(allow_requantize=True)
    assert quantize(gguf, ["Q8_0"], tmp_path / "again", home=home, options=options)


def test_a_split_cannot_be_kept_of_one_file(
    gguf: Path,  # noqa: F811
    fake: FakeToolchain,  # noqa: F811
    home: Home,
    tmp_path: Path,
) -> None:
    with pytest.raises(UsageError, match="one file"):
        quantize(gguf, ["Q8_0"], tmp_path / "o", home=home, options=Options(keep_split=True))
    write_manifest(gguf, "gguf", "m", files=["model.gguf"])
