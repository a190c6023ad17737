from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.datasets.rows_for_tests import row

from slipway.core.errors import InputError, NotFoundError
from slipway.datasets import DataSource, EncodeRule, encode_documents
from slipway.datasets.preview import Wanted, preview_row

ROWS = [row("Hi?", "Yes.", id="a"), {"messages": []}, row("Where?", "Here.", "Why?", "So.", id="b")]


def test_a_row_is_shown_raw_rendered_and_as_the_tokens_of_training(
    write: Callable[..., Path], tiny: Any
) -> None:
    folder = write(ROWS)
    rule = EncodeRule(200)
    found = preview_row(DataSource(path=str(folder)), "train", Wanted(line=3), tiny, rule)
    assert found.raw == ROWS[2]
    (document,) = found.documents
    (encoded,) = encode_documents(found.sample, tiny, rule)
    assert [token.id for token in document.tokens] == encoded.input_ids
    assert [token.learned for token in document.tokens] == [n != -100 for n in encoded.labels]
    assert document.rendered.count("<|im_start|>") == 4
    assert "".join(piece.text for piece in document.pieces if piece.learned).startswith("Here.")
    assert not found.truncated


def test_the_cut_off_is_seen(write: Callable[..., Path], tiny: Any) -> None:
    source = DataSource(path=str(write([row("q", "a" * 300)])))
    found = preview_row(source, "train", Wanted(), tiny, EncodeRule(60))
    assert found.truncated and len(found.documents[0].tokens) == 60
    assert len(found.documents[0].rendered) > 300
    gone = preview_row(source, "train", Wanted(), tiny, EncodeRule(4))
    assert gone.dropped and gone.documents == ()


def test_pairs_show_both_answers_and_texts_their_pieces(
    write: Callable[..., Path], tiny: Any
) -> None:
    pair = {"instruction": "Hi?", "chosen": "Yes please.", "rejected": "No."}
    source = DataSource(path=str(write([pair])))
    found = preview_row(source, "train", Wanted(), tiny, EncodeRule(200))
    assert [("Yes please." in d.rendered, "No." in d.rendered) for d in found.documents] == [
        (True, False),
        (False, True),
    ]
    source = DataSource(path=str(write([{"text": "a b c " * 30}])))
    pieces = preview_row(source, "train", Wanted(), tiny, EncodeRule(50)).documents
    assert len(pieces) > 1
    assert {piece.rendered for piece in pieces} == {"a b c " * 30}


def test_a_bad_or_missing_row_is_an_error_that_names_it(write: Callable[..., Path]) -> None:
    source = DataSource(path=str(write(ROWS)))
    rule = EncodeRule(50)
    with pytest.raises(InputError, match=r"train\.jsonl:2"):
        preview_row(source, "train", Wanted(line=2), None, rule)
    with pytest.raises(NotFoundError, match="no row 9"):
        preview_row(source, "train", Wanted(line=9), None, rule)
    with pytest.raises(NotFoundError, match="no row nobody"):
        preview_row(source, "train", Wanted(id="nobody"), None, rule)
    with pytest.raises(NotFoundError, match="heldout"):
        preview_row(source, "heldout", Wanted(), None, rule)
    assert preview_row(source, "train", Wanted(id="b"), None, rule).sample.line == 3
