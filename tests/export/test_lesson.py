"""The numbers of the lesson are those of llama.cpp: bytes as its program writes, values as read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from slipway.core.paths import Home
from slipway.export import convert_to_gguf
from slipway.export.lesson import blocks, superblocks
from slipway.export.lesson.coded import Floats
from slipway.export.lesson.linear import LINEAR
from slipway.export.lesson.tool import quantise_with_tool
from slipway.export.toolchain import Toolchain
from slipway.testing.tiny import tiny_model


@pytest.fixture
def weights() -> Floats:
    """Rows of very different size, and blocks where an implementation easily goes another way."""
    random = np.random.default_rng(4)
    sizes = np.exp(2 * random.standard_normal((96, 1)))
    found = (random.standard_normal((96, 512)) * sizes * 0.02).astype(np.float32)
    found[0, :32] = 0
    found[1, :32] = -0.0
    found[2, :32] = np.where(np.arange(32) % 2, 0.5, -0.5)  # two are farthest from 0
    found[3, :32] = 0.125  # no range at all
    found[4, :32] = np.arange(-16, 16) / 2  # halves to be rounded
    found[5, :32] = np.where(np.arange(32) % 2, 0.0, -0.0)
    found[6, :32] = 1e-9  # the step is 0 as fp16
    found[7, 0] = 40  # an outlier
    return found


def dequantised(name: str, data: blocks.Bytes) -> Floats:
    """As llama.cpp's own Python package reads the bytes."""
    gguf = pytest.importorskip("gguf")
    read: Floats = gguf.dequantize(data, getattr(gguf.GGMLQuantizationType, name))
    return read


@pytest.mark.parametrize("name", blocks.BLOCKS)
def test_block_types_have_the_bytes_that_llama_quantize_writes(
    name: str, tools: Toolchain, weights: Floats
) -> None:
    ours = blocks.quantise(name, weights)
    assert ours.tobytes() == quantise_with_tool(tools, name, weights).tobytes()


@pytest.mark.parametrize("name", blocks.BLOCKS)
def test_block_types_are_read_as_the_gguf_package_reads_them(name: str, weights: Floats) -> None:
    data = blocks.quantise(name, weights)
    read = blocks.decode(name, data, weights.shape[1])
    assert np.array_equal(read.values, dequantised(name, data))
    rebuilt = read.integers.reshape(-1, 32) * read.scales[:, None] + read.offsets[:, None]
    assert np.array_equal(rebuilt.reshape(weights.shape), read.values)


@pytest.mark.parametrize("name", superblocks.SUPER_BLOCKS)
def test_real_k_type_bytes_are_read_as_the_gguf_package_reads_them(
    name: str, tools: Toolchain, weights: Floats
) -> None:
    data = quantise_with_tool(tools, name, weights)
    read = superblocks.decode(name, data, weights.shape[1])
    assert np.array_equal(read.values, dequantised(name, data))
    groups = read.integers.reshape(-1, read.group).astype(np.float32)
    rebuilt = groups * read.scales[:, None] + read.offsets[:, None]
    assert np.array_equal(rebuilt.reshape(weights.shape), read.values)
    integers = {"Q4_K": (0, 15), "Q5_K": (0, 31), "Q6_K": (-32, 31)}[name]
    assert (read.integers.min(), read.integers.max()) == integers


def test_the_tools_bytes_of_one_tensor_are_those_in_a_whole_quantised_model(
    tools: Toolchain, home: Home, tmp_path: Path
) -> None:
    gguf = pytest.importorskip("gguf")
    from slipway.export import quantize
    from slipway.export.quantise import parse_options

    convert_to_gguf(tiny_model(tmp_path / "tiny"), tmp_path / "gguf", outtype="f32", home=home)
    options = parse_options(pure=True, without_imatrix=True)
    made = quantize(tmp_path / "gguf", ["Q4_0", "Q8_0"], tmp_path / "q", home=home, options=options)
    tensors = {t.name: t for t in gguf.GGUFReader(tmp_path / "gguf" / "model.gguf").tensors}
    compared = 0
    for label, manifest in made.items():
        name = manifest.config["type"].value
        for tensor in gguf.GGUFReader(tmp_path / "q" / label / "model.gguf").tensors:
            if tensor.tensor_type.name == name:
                source = np.array(tensors[tensor.name].data)
                assert blocks.quantise(name, source).tobytes() == tensor.data.tobytes()
                compared += 1
    assert compared > 10


@pytest.mark.parametrize("name", LINEAR)
def test_textbook_schemes_err_by_no_more_than_half_a_step(name: str) -> None:
    weights = np.random.default_rng(4).standard_normal((96, 512)).astype(np.float32)
    weights[7, 0] = 40
    made = LINEAR[name].code(weights)
    step = np.repeat(made.scales, made.group).reshape(weights.shape)
    # fp16 keeps a scale to 1 in 2048 only, which the integer of the farthest weight multiplies
    integers = 2.0 ** LINEAR[name].bits
    error = np.abs(made.values - weights)
    # the zero point is rounded too, so that both ends of a range may be half a step more away
    slack = 0.5 if LINEAR[name].symmetric else 1.0
    assert (error <= step * (slack + integers / 2048) + 1e-7).all()


def test_finer_scales_and_a_zero_point_err_less(weights: Floats) -> None:
    weights = np.abs(weights)  # a range on one side of 0, where a zero point counts

    def rmse(name: str) -> float:
        return float(np.sqrt(np.mean((LINEAR[name].code(weights).values - weights) ** 2)))

    assert rmse("INT4-sym-block") < rmse("INT4-sym-row") < rmse("INT4-sym-tensor")
    assert rmse("INT4-asym-block") < 0.6 * rmse("INT4-sym-block")
    assert rmse("INT8-sym-block") < rmse("INT4-sym-block") / 10


def test_bits_per_weight_are_those_of_the_format() -> None:
    from slipway.store.gguf_types import TENSOR_TYPES

    known = {name: (block, nbytes) for name, block, nbytes in TENSOR_TYPES.values()}
    for name, layout in {**blocks.BLOCKS, **superblocks.SUPER_BLOCKS}.items():
        assert (layout.block, layout.nbytes) == known[name]
    assert LINEAR["INT4-sym-block"].layout(4, 64).bits_per_weight == 4.5
    assert LINEAR["INT4-asym-block"].layout(4, 64).bits_per_weight == 4.625
    assert LINEAR["INT8-sym-row"].layout(4, 64).bits_per_weight == 8.25
    assert LINEAR["INT8-asym-tensor"].layout(4, 64).bits_per_weight == 8 + 24 / 256
