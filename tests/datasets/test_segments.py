"""Encoding in pieces is held to encoding the whole text and looking at every token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.datasets.rows_for_tests import byte_level_tokenizer, sample

from slipway.datasets import EncodeRule, encode_documents, encode_stream, load_tokenizer, segments
from slipway.datasets.segments import SegmentEncoder
from slipway.datasets.skeleton import Document

CUTS = ("<|im_start|>", "<|im_end|>")
pieces = st.sampled_from(
    [*CUTS, "user\n", "assistant\n", "\n", " ", "yes", "where is", "你é", "<|"]
)


@st.composite
def documents(draw: st.DrawFn) -> Document:
    parts = draw(st.lists(pieces, max_size=12))
    edges = draw(st.lists(st.integers(0, len(parts)), max_size=6, unique=True))
    places = [sum(map(len, parts[:edge])) for edge in sorted(edges)[: len(edges) // 2 * 2]]
    spans = zip(places[::2], places[1::2], strict=True)
    return Document("".join(parts), tuple((low, high) for low, high in spans if low < high))


@pytest.fixture(params=["tiny", "byte_level"])
def encoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> SegmentEncoder:
    tokenizer = request.getfixturevalue(request.param)
    # the comparison that the encoder itself makes would hide a difference from these tests
    monkeypatch.setattr(segments, "_CHECKED_FIRST", 0)
    monkeypatch.setattr(segments, "_CHECKED_EVERY", 1 << 40)
    return encoder_of(tokenizer)


def encoder_of(tokenizer: Any) -> SegmentEncoder:
    plain = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
    plain.post_processor = None
    return SegmentEncoder(plain, CUTS)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch=st.lists(documents(), max_size=4), copies=st.integers(1, 9))
def test_pieces_give_what_the_whole_text_gives(
    encoder: SegmentEncoder, batch: list[Document], copies: int
) -> None:
    wanted = [encoder.obviously(document) for document in batch]
    assert encoder.encode(batch * copies) == wanted * copies
    assert encoder.encode(batch) == wanted  # once more, with pieces that are remembered
    assert encoder._exact


def test_a_tokenizer_that_looks_beyond_control_tokens_is_encoded_whole(tmp_path: Path) -> None:
    from tokenizers import pre_tokenizers

    tokenizer = load_tokenizer(byte_level_tokenizer(tmp_path / "t"))
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace("Ġ", prepend_scheme="first", split=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    encoder = encoder_of(tokenizer)
    assert not encoder._exact
    one = Document("a<|im_start|>a<|im_end|>a", ((13, 24),))
    assert encoder.encode([one]) == [encoder.obviously(one)]


def test_a_wrong_piece_is_found_and_everything_encoded_whole(byte_level: Any) -> None:
    encoder = encoder_of(byte_level)
    one = Document("<|im_start|>user\nq<|im_end|>", ((18, 29),))
    encoder._known["user\nq"] = [1, 2, 3]
    assert encoder.encode([one]) == [encoder.obviously(one)]
    assert not encoder._exact
    assert encoder.encode([one]) == [encoder.obviously(one)]


def test_a_stream_encodes_what_single_rows_encode(tokenizer: Any) -> None:
    rows = [sample(f"question {i % 7}", "\nedge" if i % 5 else f"a {i}") for i in range(1300)]
    done = encode_stream(rows, tokenizer, EncodeRule(500), cache=None, digest="d")
    assert len(done) == len(rows)
    for number in (0, 1, 64, 65, 511, 512, 1023, 1024, 1299):
        assert [done[number]] == encode_documents(rows[number], tokenizer, EncodeRule(500))
