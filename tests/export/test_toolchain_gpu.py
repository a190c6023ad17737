"""Decisions about GPU backends, variants and processor features, made from values."""

from __future__ import annotations

import pytest

from slipway.core.errors import ResourceError
from slipway.export.toolchain.cpu import (
    features_missed,
    features_used,
    parse_features,
    stamp,
)
from slipway.export.toolchain.gpu import Gpu, Seen, choose, look
from slipway.export.toolchain.variants import Variant, after_failure, ladder, plan, rank

LINUX = Seen("Linux", "x86_64")
NVCC = "/usr/local/cuda/bin/nvcc"


def chosen(seen: Seen, wanted: dict[Gpu, bool] | None = None) -> list[Gpu]:
    return [choice.gpu for choice in choose(seen, wanted) if choice.use]


@pytest.mark.parametrize(
    ("seen", "gpus"),
    [
        (LINUX, []),
        (Seen("Linux", "x86_64", nvidia=True, nvcc=NVCC), ["cuda"]),
        (Seen("Linux", "x86_64", nvidia=True), []),
        (Seen("Linux", "x86_64", nvcc=NVCC), []),
        (Seen("Darwin", "arm64"), ["metal"]),
        (Seen("Darwin", "x86_64"), []),
        (
            Seen("Linux", "x86_64", vulkan=True, glslc="/usr/bin/glslc", vulkan_headers=True),
            ["vulkan"],
        ),
        (Seen("Linux", "x86_64", vulkan=True, glslc="/usr/bin/glslc"), []),
        (
            Seen("Linux", "x86_64", True, NVCC, True, "/usr/bin/glslc", True),
            ["cuda"],
        ),
    ],
)
def test_backend_is_built_when_device_and_compiler_are_there(seen: Seen, gpus: list[Gpu]) -> None:
    assert chosen(seen) == gpus


def test_reason_names_the_compiler_that_is_missing() -> None:
    reasons = {c.gpu: c.why.en for c in choose(Seen("Linux", "x86_64", nvidia=True, vulkan=True))}
    assert "nvcc" in reasons["cuda"] and "glslc" in reasons["vulkan"]
    assert "no device" in reasons["metal"]


def test_wish_of_the_user_decides() -> None:
    gpu = Seen("Linux", "x86_64", nvidia=True, nvcc=NVCC)
    assert chosen(gpu, {"cuda": False}) == []
    assert chosen(Seen("Linux", "x86_64", nvcc=NVCC), {"cuda": True}) == ["cuda"]
    with pytest.raises(ResourceError, match="nvcc"):
        choose(LINUX, {"cuda": True})
    with pytest.raises(ResourceError, match="macOS"):
        choose(LINUX, {"metal": True})


def test_looking_at_this_machine_gives_a_decision_without_error() -> None:
    assert {choice.gpu for choice in choose(look())} == {"cuda", "metal", "vulkan"}


SPR = ladder(frozenset({"avx2", "avx512f", "avx512_vnni", "amx_int8"}), "x86_64")


def test_gpu_variants_are_built_before_those_for_the_cpu_alone() -> None:
    builds = plan(SPR, ["cuda"])
    assert [v.name for v in builds[:2]] == ["native-cuda", "native-noamx-cuda"]
    assert [v.name for v in builds[len(SPR) :]] == [v.name for v in SPR]
    assert "-DGGML_CUDA=ON" in builds[0].cmake_flags()
    assert not any("CUDA" in flag for flag in builds[-1].cmake_flags())
    ranks = [rank(variant.name) for variant in builds]
    assert ranks == sorted(ranks) and rank("unknown") > ranks[-1]


def test_metal_is_off_unless_chosen() -> None:
    assert "-DGGML_METAL=OFF" in Variant("native", True).cmake_flags()
    metal = Variant("native-metal", True, gpus=("metal",)).cmake_flags()
    assert "-DGGML_METAL=ON" in metal and "-DGGML_METAL=OFF" not in metal


def test_illegal_instruction_keeps_the_gpu_and_any_other_fault_drops_it() -> None:
    first, *rest = plan(SPR, ["cuda"])
    assert after_failure(rest, first, ["SIGILL in llama-bench"])[0].name == "native-noamx-cuda"
    left = after_failure(rest, first, ["exit 1: CUDA error: no kernel image"])
    assert [v.name for v in left] == [v.name for v in SPR]


def test_variants_known_to_fail_are_left_out_unless_none_would_be_left() -> None:
    assert plan(SPR, [], {"native"})[0].name == "native-noamx"
    assert len(plan(SPR, [], {v.name for v in SPR})) == len(SPR)


LINE = (
    "0.00.012 I system_info: n_threads = 1 (n_threads_batch = 1) / 2 | CPU : SSE3 = 1 | AVX = 1 "
    "| AVX2 = 1 | AVX512 = 0 | LLAMAFILE = 1 | OPENMP = 1 | REPACK = 1 | \nperplexity: ..."
)


def test_features_that_are_there_and_not_used_are_named() -> None:
    features = parse_features(LINE)
    assert features["AVX2"] == "1" and features["AVX512"] == "0"
    assert features_used(features) == ["AVX", "AVX2"]
    flags = frozenset({"avx", "avx2", "avx512f", "avx512_bf16", "avx512bw"})
    assert features_missed(flags, features) == ["avx512_bf16", "avx512f"]
    assert features_missed(flags, {}) == [] and parse_features("nothing") == {}


def test_stamp_differs_with_the_features_only() -> None:
    one = stamp(["avx", "avx2"], "x86_64")
    assert one == stamp({"avx2", "avx"}, "X86_64") and len(one) == 8
    assert one != stamp(["avx"], "x86_64") and one != stamp(["avx", "avx2"], "aarch64")
