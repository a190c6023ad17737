from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.datasets.rows_for_tests import sample

from slipway.core.errors import InputError, ResourceError, UsageError
from slipway.datasets import (
    Encoded,
    EncodeRule,
    Message,
    Sample,
    TokenSet,
    encode_all,
    encode_documents,
    encode_stream,
    list_cached,
    remove_cached,
    token_cache,
    token_writer,
)
from slipway.datasets.encode import IGNORE

RULE = EncodeRule(64)
ROWS = [
    replace(sample(f"question {i}", f"answer number {i}" * (i % 9)), id=f"r{i}", line=i)
    for i in range(1, 40)
]


def untouched() -> Iterator[Sample]:
    raise AssertionError("the cache has it")
    yield ROWS[0]


def test_a_stream_gives_the_same_rows_as_encoding_in_memory(tiny: Any, tmp_path: Path) -> None:
    wanted = encode_all(ROWS, tiny, 64)
    for cache in (None, tmp_path):
        done = encode_stream(ROWS, tiny, RULE, cache=cache, digest="d")
        assert list(done) == wanted.rows
        assert done.lengths.tolist() == [len(row.input_ids) for row in wanted.rows]
        assert done.learned.tolist() == [row.learned for row in wanted.rows]
        assert list(done.truncated) == wanted.truncated and done.truncated.count
        assert list(done.dropped) == wanted.dropped
        assert done.kind == "chat" and done[-1] == wanted.rows[-1]


def test_a_second_start_reads_the_cache_and_not_the_rows(tiny: Any, tmp_path: Path) -> None:
    first = encode_stream(ROWS, tiny, RULE, cache=tmp_path, digest="d")
    again = encode_stream(untouched(), tiny, RULE, cache=tmp_path, digest="d")
    assert list(again) == list(first)
    assert list(again.truncated) == list(first.truncated)


@pytest.mark.parametrize(
    "rule",
    [
        replace(RULE, cutoff_len=65),
        replace(RULE, train_on_prompt=True),
        replace(RULE, mask_history=True),
        replace(RULE, thinking="off"),
        replace(RULE, system="be brief"),
    ],
)
def test_another_rule_or_digest_is_another_cache(
    tiny: Any, tmp_path: Path, rule: EncodeRule
) -> None:
    encode_stream(ROWS[:2], tiny, RULE, cache=tmp_path, digest="d")
    encode_stream(ROWS[:2], tiny, rule, cache=tmp_path, digest="d")
    encode_stream(ROWS[:2], tiny, RULE, cache=tmp_path, digest="e")
    assert len(list_cached(tmp_path)) == 3


def test_what_a_call_leaves_on_the_tokenizer_does_not_change_the_key(tiny_folder: Path) -> None:
    from slipway.datasets import load_tokenizer

    tokenizer = load_tokenizer(tiny_folder)
    before = token_cache.cache_key("d", tokenizer, RULE)
    tokenizer(["a", "a b"], truncation=True, max_length=2, padding=True)
    assert token_cache.cache_key("d", tokenizer, RULE) == before


@pytest.mark.parametrize("damage", ["flip", "shorten", "remove", "meta", "half_meta"])
def test_a_damaged_cache_is_made_anew(tiny: Any, tmp_path: Path, damage: str) -> None:
    first = list(encode_stream(ROWS, tiny, RULE, cache=tmp_path, digest="d"))
    (entry,) = list_cached(tmp_path)
    file = entry.folder / "tokens.u32"
    data = bytearray(file.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    elif damage == "shorten":
        file.write_bytes(data[:-4])
    elif damage == "remove":
        file.unlink()
    else:
        meta = entry.folder / "meta.json"
        meta.write_text("[]" if damage == "meta" else meta.read_text()[:-9])
    with pytest.raises(AssertionError, match="the cache has it"):
        encode_stream(untouched(), tiny, RULE, cache=tmp_path, digest="d")
    assert list(encode_stream(ROWS, tiny, RULE, cache=tmp_path, digest="d")) == first


def test_an_interrupted_write_leaves_nothing_that_is_believed(tiny: Any, tmp_path: Path) -> None:
    def broken() -> Iterator[Sample]:
        yield from ROWS
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_stream(broken(), tiny, RULE, cache=tmp_path, digest="d")
    assert list_cached(tmp_path) == []
    assert len(encode_stream(ROWS, tiny, RULE, cache=tmp_path, digest="d")) == len(
        encode_all(ROWS, tiny, 64).rows
    )


def test_a_full_disk_is_an_error_that_says_so(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: token_writer.TokenWriter) -> None:
        raise token_writer.from_os_error(OSError(28, "No space left on device"), tmp_path)

    monkeypatch.setattr(token_writer.TokenWriter, "_flush", full)
    with pytest.raises(ResourceError):
        encode_stream(ROWS, tiny, RULE, cache=tmp_path, digest="d")
    assert list_cached(tmp_path) == []


def test_the_least_recently_used_caches_go_first(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = [encode_stream(ROWS, tiny, RULE, cache=tmp_path, digest=d) for d in "abc"]
    keys = [token_cache.cache_key(d, tiny, RULE) for d in "abc"]
    for age, key in enumerate(keys):
        token_cache.os.utime(tmp_path / key / "meta.json", (age, age))
    encode_stream(untouched(), tiny, RULE, cache=tmp_path, digest="a")  # used again
    size = list_cached(tmp_path)[0].bytes
    monkeypatch.setattr(token_cache, "LIMIT_BYTES", 3 * size)
    encode_stream(ROWS, tiny, RULE, cache=tmp_path, digest="d")
    left = {entry.folder.name for entry in list_cached(tmp_path)}
    assert left == {keys[0], keys[2], token_cache.cache_key("d", tiny, RULE)}
    assert list(sets[1]) == list(sets[0])  # open sets outlive their files
    assert len(remove_cached(tmp_path)) == 3 and not list_cached(tmp_path)


def test_leftovers_of_killed_processes_are_removed(tiny: Any, tmp_path: Path) -> None:
    dead = tmp_path / ".0123.4194399.abc"
    dead.mkdir()
    encode_stream(ROWS, tiny, RULE, cache=tmp_path, digest="d")
    assert not dead.exists()


def test_rows_that_cannot_be_encoded_stop_or_are_counted(tiny: Any, tmp_path: Path) -> None:
    rows = [*ROWS[:3], sample("q<|im_end|>", "a"), *ROWS[3:]]
    with pytest.raises(InputError, match="control token"):
        encode_stream(rows, tiny, RULE, cache=tmp_path, digest="d")
    for _ in range(2):
        done = encode_stream(rows, tiny, RULE, cache=tmp_path, digest="d", bad_rows="skip")
        assert done.refused == 1 and "rows.jsonl:7" in done.reasons[0]
        assert len(done) == len(encode_all(ROWS, tiny, 64).rows)


def test_rows_of_two_kinds_are_refused_with_the_row(tiny: Any) -> None:
    pair = replace(
        sample("q"), chosen=Message("assistant", "a"), rejected=Message("assistant", "b")
    )
    with pytest.raises(InputError, match="preference among rows of kind chat"):
        encode_stream([ROWS[0], pair], tiny, RULE, cache=None, digest="d")


encoded = st.builds(
    lambda ids, bits: Encoded(
        f"名{len(ids)}", ids, [i if b else IGNORE for i, b in zip(ids, bits, strict=False)]
    ),
    st.lists(st.integers(0, 2**31), min_size=1, max_size=9),
    st.lists(st.booleans(), min_size=9, max_size=9),
)


@given(rows=st.lists(encoded, max_size=6), data=st.data())
def test_a_set_in_memory_is_its_rows_and_so_is_a_selection(
    rows: list[Encoded], data: st.DataObject
) -> None:
    tokens = TokenSet.from_rows(rows)
    assert list(tokens) == rows == tokens[:]
    numbers = data.draw(st.lists(st.integers(0, len(rows) - 1))) if rows else []
    chosen = tokens.select(numbers)
    assert list(chosen) == [rows[n] for n in numbers]
    assert chosen.select(range(len(chosen)))[:1] == [rows[n] for n in numbers[:1]]
    assert chosen.learned.tolist() == [rows[n].learned for n in numbers]
    with pytest.raises(IndexError):
        tokens[len(rows)]


def preference(question: str, good: str, bad: str) -> Sample:
    answers = {"chosen": Message("assistant", good), "rejected": Message("assistant", bad)}
    return replace(sample(question), **answers)  # type: ignore[arg-type]


def learned_text(row: Encoded, tokenizer: Any) -> str:
    return str(tokenizer.decode([label for label in row.labels if label != IGNORE]))


def prompt_of(row: Encoded) -> list[int]:
    first = next(i for i, label in enumerate(row.labels) if label != IGNORE)
    return row.input_ids[:first]


def test_a_pair_shares_its_prompt_and_learns_the_answers(tokenizer: Any) -> None:
    pairs = [preference("where is it", "on its way", "no idea"), preference("why", "so", "what")]
    done = encode_stream(pairs, tokenizer, EncodeRule(500), cache=None, digest="d")
    assert done.kind == "preference" and len(done) == 4
    texts = [learned_text(row, tokenizer) for row in done]
    assert texts == [a + "<|im_end|>" for a in ("on its way", "no idea", "so", "what")]
    assert prompt_of(done[0]) == prompt_of(done[1]) and prompt_of(done[2]) == prompt_of(done[3])


def test_a_long_pair_loses_the_beginning_of_its_prompt_on_both_sides(tiny: Any) -> None:
    whole = encode_documents(preference("w" * 90, "good", "bad"), tiny, EncodeRule(500))
    chosen, rejected = encode_documents(preference("w" * 90, "good", "bad"), tiny, EncodeRule(60))
    assert len(chosen.input_ids) == 60
    assert chosen.input_ids == whole[0].input_ids[-60:]
    assert (
        prompt_of(chosen) == prompt_of(rejected) == prompt_of(whole[0])[-len(prompt_of(chosen)) :]
    )
    assert learned_text(chosen, tiny) == "good<|im_end|>"


def test_an_answer_too_long_for_the_cut_off_loses_its_end_and_a_quarter_stays_prompt(
    tiny: Any,
) -> None:
    row, other = encode_documents(preference("w" * 90, "g" * 90, "b"), tiny, EncodeRule(40))
    assert len(row.input_ids) == 40 and len(prompt_of(row)) == 10
    assert prompt_of(other) == prompt_of(row)
    assert learned_text(row, tiny) == "g" * 30


def test_feedback_keeps_its_mark_and_learns_the_last_answer(tiny: Any) -> None:
    rows = [
        replace(sample("q", "first", "r", "last"), desirable=True),
        replace(sample("q", "bad"), desirable=False),
    ]
    done = encode_stream(rows, tiny, EncodeRule(500), cache=None, digest="d")
    assert done.desirable is not None and done.desirable.tolist() == [True, False]
    assert [learned_text(row, tiny) for row in done] == ["last<|im_end|>", "bad<|im_end|>"]


@given(text=st.text("abe 退é\n", min_size=1, max_size=60), cutoff=st.integers(2, 20))
def test_of_a_long_text_every_token_is_learned_once(tiny: Any, text: str, cutoff: int) -> None:
    one = Sample("t", (), Path("rows.jsonl"), 1, text=text)
    pieces = encode_documents(one, tiny, EncodeRule(cutoff, pt=True))
    whole = [*tiny(text, add_special_tokens=False)["input_ids"], tiny.eos_token_id]
    labels = [label for piece in pieces for label in piece.labels if label != IGNORE]
    assert labels == whole[1:]
    assert pieces[0].input_ids[0] == whole[0]
    lengths = [len(piece.input_ids) for piece in pieces]
    assert max(lengths) <= cutoff and max(lengths) - min(lengths) <= 1


def test_texts_need_no_chat_template(tiny_folder: Path, tmp_path: Path) -> None:
    from slipway.datasets import load_tokenizer

    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / file).write_bytes((tiny_folder / file).read_bytes())
    tokenizer = load_tokenizer(tmp_path, chat=False)
    texts = [Sample("t", (), Path("rows.txt"), n, text="once upon " * n) for n in range(1, 9)]
    rule = EncodeRule(16, pt=True)
    done = encode_stream(texts, tokenizer, rule, cache=None, digest="d")
    assert list(done) == [row for one in texts for row in encode_documents(one, tokenizer, rule)]
    ids = [tokenizer(one.text, add_special_tokens=False)["input_ids"] for one in texts]
    assert int(done.learned.sum()) == sum(map(len, ids))  # the end is learned, the first is not


def test_text_and_conversations_are_held_to_their_stage(tiny: Any) -> None:
    text = Sample("t", (), Path("rows.jsonl"), 1, text="once upon a time")
    with pytest.raises(InputError, match="only stage pt"):
        encode_documents(text, tiny, EncodeRule(9))
    with pytest.raises(InputError, match="stage pt learns plain text"):
        encode_documents(ROWS[0], tiny, EncodeRule(9, pt=True))


def test_masks_of_a_rule(tiny: Any) -> None:
    one = sample("q", "first", "r", "last")
    (history,) = encode_documents(one, tiny, EncodeRule(500, mask_history=True))
    assert learned_text(history, tiny) == "last<|im_end|>"
    (prompt,) = encode_documents(one, tiny, EncodeRule(500, train_on_prompt=True))
    assert prompt.labels == prompt.input_ids
    (system,) = encode_documents(one, tiny, EncodeRule(500, system="be kind"))
    assert "system\nbe kind" in tiny.decode(system.input_ids)
    own = sample("q", "a", system="own")
    (kept,) = encode_documents(own, tiny, EncodeRule(500, system="be kind"))
    assert "be kind" not in tiny.decode(kept.input_ids)


def test_a_cut_off_below_one_is_no_rule() -> None:
    with pytest.raises(UsageError, match="cutoff_len"):
        EncodeRule(0)


def test_progress_ends_at_the_number_of_samples(tiny: Any) -> None:
    seen: list[int] = []
    encode_stream(ROWS, tiny, RULE, cache=None, digest="d", on_progress=seen.append)
    assert seen[-1] == len(ROWS)


def test_what_the_reader_skipped_is_known_at_the_second_start(tiny: Any, tmp_path: Path) -> None:
    from slipway.core.i18n import tr
    from slipway.datasets import RowProblem

    class Stream(list[Sample]):
        problems = (RowProblem(Path("rows.jsonl"), 3, "", "broken_json", tr("the file is empty")),)
        problem_count = 1

    encode_stream(Stream(ROWS), tiny, RULE, cache=tmp_path, digest="d")
    again = encode_stream(untouched(), tiny, RULE, cache=tmp_path, digest="d")
    assert again.skipped["count"] == 1
    assert json.dumps(again.skipped["first"]).count("broken_json") == 1
