"""Streams of samples: constant memory, mixtures, limits, bad rows."""

from __future__ import annotations

import json
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.datasets.rows_for_tests import row

from slipway.core.errors import InputError, NotFoundError, UsageError
from slipway.datasets import load_dataset, open_samples
from slipway.datasets.mix import Mix, mixed
from slipway.datasets.source import DataSource


def put(folder: Path, name: str, count: int) -> DataSource:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row(f"{name}{i}", "a")) + "\n" for i in range(count)))
    return DataSource(path=str(path))


def questions(stream: object) -> list[str]:
    return [sample.messages[0].content for sample in stream]  # type: ignore[attr-defined]


def test_a_stream_gives_what_load_dataset_gives_each_time(tmp_path: Path) -> None:
    source = put(tmp_path, "a", 5)
    stream = open_samples([source])
    assert list(stream) == list(stream) == load_dataset(Path(source.path))


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    peaks = []
    for count in (2_000, 20_000):
        source = put(tmp_path, f"n{count}", count)
        tracemalloc.start()
        assert sum(1 for _ in open_samples([source])) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 200_000


def test_a_json_list_larger_than_a_piece_is_read_whole_with_its_lines(tmp_path: Path) -> None:
    rows = [{"instruction": f"{i} 你好", "output": "x" * (i % 7) * 20_000} for i in range(1, 60)]
    for one in rows:
        one["output"] = one["output"] or "y"
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")
    samples = list(open_samples([DataSource(path=str(path))]))
    assert [s.messages[1].content for s in samples] == [r["output"] for r in rows]
    assert [s.line for s in samples] == [2 + 4 * i for i in range(len(rows))]


def test_a_fault_deep_in_a_list_of_one_line_keeps_its_column(tmp_path: Path) -> None:
    good = json.dumps({"instruction": "x" * 700_000, "output": "y"})
    path = tmp_path / "rows.json"
    path.write_text(f"[{good},{good},{good},{{bad}}]")
    stream = open_samples([DataSource(path=str(path))])
    with pytest.raises(InputError, match=f"column {3 * (len(good) + 1) + 3}"):
        list(stream)


def test_bad_rows_stop_at_the_row_or_are_counted_and_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    good = json.dumps(row("a", "b"))
    path.write_text("\n".join([good, "{", json.dumps({"messages": []}), good]))
    source = DataSource(path=str(path))
    with pytest.raises(InputError, match=r"a\.jsonl:2") as caught:
        list(open_samples([source]))
    assert "bad_rows: skip" in caught.value.hint_en
    stream = open_samples([source], bad_rows="skip")
    for _ in range(2):  # a second reading does not count them again
        assert len(list(stream)) == 2
        assert stream.problem_count == 2
        assert [(p.line, p.code) for p in stream.problems] == [(2, "broken_json"), (3, "empty")]


def test_a_set_without_one_good_row_is_an_error_even_when_skipping(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"messages": []}\n{"messages": [1]}\n')
    with pytest.raises(InputError, match=r"none of the 2 rows.*a.jsonl:1"):
        list(open_samples([DataSource(path=str(path))], bad_rows="skip"))
    path.write_text("[]")
    with pytest.raises(InputError, match="no row"):
        list(open_samples([DataSource(path=str(path))]))


def test_max_samples_is_for_each_source_and_a_source_has_its_own(tmp_path: Path) -> None:
    a, b = put(tmp_path, "a", 5), put(tmp_path, "b", 5)
    stream = open_samples([a, b.model_copy(update={"max_samples": 1})], max_samples=2)
    assert questions(stream) == ["a0", "a1", "b0"]
    assert [(s.id, s.source) for s in stream] == [
        ("a/a:1", "a"),
        ("a/a:2", "a"),
        ("b/b:1", "b"),
    ]


@pytest.mark.parametrize(
    ("mix", "wanted"),
    [
        ("concat", "a0 a1 b0 b1 b2 b3"),
        ("interleave_under", "a0 b0 a1 b1"),
        ("interleave_over", "a0 b0 a1 b1 a0 b2 a1 b3"),
        ("interleave_once", "a0 b0 a1 b1 b2 b3"),
    ],
)
def test_sources_of_equal_weight_take_turns(tmp_path: Path, mix: Mix, wanted: str) -> None:
    sources = [put(tmp_path, "a", 2), put(tmp_path, "b", 4)]
    assert questions(open_samples(sources, mix=mix)) == wanted.split()


def test_weights_decide_the_share_and_the_seed_the_order(tmp_path: Path) -> None:
    sources = [
        put(tmp_path, "a", 3000).model_copy(update={"weight": 3.0}),
        put(tmp_path, "b", 3000),
    ]
    first = questions(open_samples(sources, mix="interleave_under", seed=1))
    counts = Counter(text[0] for text in first)
    assert 0.72 < counts["a"] / len(first) < 0.78
    assert first == questions(open_samples(sources, mix="interleave_under", seed=1))
    assert first != questions(open_samples(sources, mix="interleave_under", seed=2))


def test_weights_without_a_mixture_are_refused(tmp_path: Path) -> None:
    sources = [put(tmp_path, "a", 3), put(tmp_path, "b", 3).model_copy(update={"weight": 2.0})]
    with pytest.raises(UsageError, match="mix: concat"):
        open_samples(sources)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 6), min_size=1, max_size=4),
    mix=st.sampled_from(["interleave_under", "interleave_over", "interleave_once"]),
    equal=st.booleans(),
    seed=st.integers(0, 50),
)
def test_mixtures_keep_their_promise(lengths: list[int], mix: Mix, equal: bool, seed: int) -> None:
    streams = [[(n, i) for i in range(length)] for n, length in enumerate(lengths)]
    weights = [1.0 if equal else 1.0 + n for n in range(len(lengths))]
    got = list(mixed([lambda s=s: iter(s) for s in streams], weights, mix, seed))
    counts = Counter(got)
    everything = [item for stream in streams for item in stream]
    if mix == "interleave_once":
        assert sorted(got) == everything
    elif mix == "interleave_over":
        assert set(got) == set(everything)
    else:
        assert all(count == 1 for count in counts.values())
        if min(lengths) == 0:
            assert not got
        else:
            assert any(set(stream) <= set(got) for stream in streams)
    for n in range(len(lengths)):  # each stream stays in its order
        own = [i for m, i in got if m == n]
        assert own == [k % lengths[n] for k in range(len(own))]


def test_the_digest_follows_all_that_decides_the_samples(tmp_path: Path) -> None:
    a, b = put(tmp_path, "a", 5), put(tmp_path, "b", 5)
    digests = [
        open_samples([a]).digest,
        open_samples([a], max_samples=2).digest,
        open_samples([a, b]).digest,
        open_samples([b, a]).digest,
        open_samples([a, b], mix="interleave_under").digest,
        open_samples([a, b], mix="interleave_under", seed=1).digest,
        open_samples([a], bad_rows="skip").digest,
    ]
    assert len(set(digests)) == len(digests)
    assert open_samples([a]).digest == digests[0]
    put(tmp_path, "a", 6)
    assert open_samples([a]).digest != digests[0]


def test_a_division_keeps_rows_apart_and_loses_none(tmp_path: Path) -> None:
    stream = open_samples([put(tmp_path, "a", 50)])
    for val_size, kept in ((0.1, 5), (7, 7), (0.05, 3)):
        train, val = stream.divided(val_size, seed=3)
        assert len(questions(val)) == kept
        assert sorted(questions(train) + questions(val)) == sorted(questions(stream))
        assert questions(val) == questions(stream.divided(val_size, seed=3)[1])
        assert train.digest != val.digest != stream.digest
    with pytest.raises(InputError, match="none is left"):
        list(stream.divided(50, seed=0)[0])


def test_heldout_rows_come_from_the_sources_that_have_some(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    put(folder, "train", 3)
    put(folder, "heldout", 2)
    plain = put(tmp_path, "a", 2)
    both = [DataSource(path=str(folder)), plain]
    assert questions(open_samples(both, "heldout")) == ["heldout0", "heldout1"]
    with pytest.raises(NotFoundError, match="heldout"):
        open_samples([plain], "heldout")
