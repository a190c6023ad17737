from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.datasets.rows_for_tests import row

from slipway.core.errors import InputError
from slipway.datasets import dataset_stats, encode_sample, load_dataset
from slipway.datasets.token_tally import histogram, spread


def test_rows_turns_languages_and_topics_are_counted(write: Callable[..., Path]) -> None:
    train = [
        row("Where is it", "Here it is", topic="delivery"),
        row("到哪了", "在路上", "谢谢", "不客气", topic="delivery"),
        row("What is 退货", "sending back", topic="returns"),
    ]
    train[0]["messages"].insert(0, {"role": "system", "content": "Be kind"})
    stats = dataset_stats(write(train, [row("a b", "c")]))
    split = stats.splits["train"]
    assert (split.rows, split.turns, split.single_turn, split.multi_turn) == (3, 8, 2, 1)
    assert split.with_system == 1
    assert split.topics == {"delivery": 2, "returns": 1}
    assert split.languages == {"other": 1, "cjk": 1, "mixed": 1}
    assert 0 < split.cjk_share < 1
    assert split.words.max == 11  # each Chinese character counts as a word
    assert split.tokens is None
    assert stats.splits["heldout"].words.total == 3
    assert stats.digest.startswith("sha256:")


def test_tokens_are_those_that_training_will_see(write: Callable[..., Path], tiny: Any) -> None:
    folder = write([row("q", "a" * n) for n in (1, 10, 200)] + [row("w" * 300, "a")])
    tokens = dataset_stats(folder, tiny, cutoff_len=100).splits["train"].tokens
    assert tokens is not None
    whole = [len(encode_sample(s, tiny, 10_000).input_ids) for s in load_dataset(folder)]
    assert tokens.per_row.total == sum(whole)
    assert tokens.per_row.max == max(whole)
    assert [(row.line, row.tokens) for row in tokens.over_cutoff] == [(3, whole[2]), (4, whole[3])]
    assert [row.line for row in tokens.dropped] == [4]
    assert sum(count for _, _, count in tokens.histogram) == 4
    assert 0 < tokens.learned_share < 1


def test_a_bad_row_stops_the_count_and_is_named(write: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match=r"train\.jsonl:2"):
        dataset_stats(write([row("a", "b"), {"messages": []}]))


def test_the_numbers_are_one_json_document(write: Callable[..., Path], tiny: Any) -> None:
    stats = dataset_stats(write([row("a", "b")]), tiny)
    value = json.loads(json.dumps(stats.as_json()))
    assert value["splits"]["train"]["tokens"]["per_row"]["total"] > 0


def test_percentiles_are_nearest_rank() -> None:
    assert spread(list(range(1, 101))).p50 == 50
    assert spread(list(range(1, 101))).p95 == 95
    assert spread([7]).p95 == 7
    assert spread([]).max == 0


@pytest.mark.parametrize("values", [[1], [0, 5, 9], list(range(1000)), [123456]])
def test_histogram_bins_are_round_and_hold_every_value(values: list[int]) -> None:
    bins = histogram(values)
    assert sum(count for _, _, count in bins) == len(values)
    assert len(bins) <= 13
    for value in set(values):
        assert any(start <= value < end for start, end, _ in bins)
    assert all(end == start for (_, end, _), (start, _, _) in pairwise(bins))
