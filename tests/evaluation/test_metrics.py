from __future__ import annotations

import math
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipway.evaluation.bootstrap import FEWEST_ROWS, difference, draws, interval
from slipway.evaluation.lf_metrics import bleu_4 as lf_bleu_4
from slipway.evaluation.lf_metrics import rouge_scores as lf_rouge
from slipway.evaluation.metrics import METRICS, losses, mean_of, score_texts
from slipway.evaluation.ngrams import (
    bleu,
    bleu_counts,
    chrf,
    chrf_counts,
    chrf_word_counts,
    common_length,
    rouge_n,
)
from slipway.evaluation.segment import answer_of, by_word, normalised

WORDS = ["the", "order", "has", "left", "our", "store", "and", "will", "come", "soon", "today"]
TEXTS = st.lists(st.sampled_from(WORDS), min_size=0, max_size=14).map(" ".join)
ANY = st.text(alphabet="ab c退货订单。!", max_size=14)


def sentences(seed: int, count: int) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(4, 14))) for _ in range(count)]


def test_bleu_is_sacrebleus() -> None:
    from sacrebleu.metrics import BLEU

    ours, theirs = sentences(1, 40), sentences(2, 40)
    ours = [f"{a} {b}" for a, b in zip(ours, theirs, strict=True)]  # some 4-grams must match
    counts = [bleu_counts(a.split(), b.split()) for a, b in zip(ours, theirs, strict=True)]
    found = float(bleu(np.array(counts, dtype=float).sum(0)))
    wanted = BLEU(tokenize="none", smooth_method="none").corpus_score(ours, [theirs]).score
    assert wanted > 5 and found == pytest.approx(wanted)


@pytest.mark.parametrize("words", [0, 2])
def test_chrf_is_sacrebleus(words: int) -> None:
    from sacrebleu.metrics import CHRF

    ours, theirs = sentences(3, 40), sentences(4, 40)
    counts = [
        chrf_counts(a, b) + (chrf_word_counts(a.split(), b.split()) if words else [])
        for a, b in zip(ours, theirs, strict=True)
    ]
    found = float(chrf(np.array(counts, dtype=float).sum(0)))
    wanted = CHRF(word_order=words).corpus_score(ours, [theirs]).score
    assert found == pytest.approx(wanted)


def test_rouge_is_rouge_scores() -> None:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    for a, b in zip(sentences(5, 60), sentences(6, 60), strict=True):
        wanted = scorer.score(b, a)
        found = score_texts([a], [b])
        assert found["rouge_1"].value == pytest.approx(100 * wanted["rouge1"].fmeasure)
        assert found["rouge_2"].value == pytest.approx(100 * wanted["rouge2"].fmeasure)
        assert found["rouge_l"].value == pytest.approx(100 * wanted["rougeL"].fmeasure)


@given(st.text("abcd", max_size=12), st.text("abcd", max_size=12))
def test_common_length_is_the_table_of_the_textbook(a: str, b: str) -> None:
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = (
                table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
            )
    assert common_length(a, b) == table[-1][-1]


@given(st.lists(ANY, min_size=1, max_size=4))
@settings(max_examples=50, deadline=None)
def test_identical_texts_score_100(texts: list[str]) -> None:
    for name, found in score_texts(texts, texts).items():
        assert found.value == pytest.approx(100), name
        assert np.allclose(found.each, 100), name


@given(TEXTS, TEXTS)
def test_scores_stay_between_0_and_100(a: str, b: str) -> None:
    for name, found in score_texts([a], [b]).items():
        assert -1e-9 <= found.value <= 100 + 1e-9, name


def test_chinese_is_scored_by_characters_and_by_words() -> None:
    found = score_texts(["请申请退款"], ["请申请退货"])
    # four characters of five, two words of three
    assert found["rouge_1"].value == pytest.approx(80)
    assert found["rouge_1_words"].value == pytest.approx(200 / 3)
    assert by_word("我想退货。Hello") == ["我", "想", "退货", "hello"]
    assert "rouge_1_words" not in score_texts(["hello"], ["hello"])


def test_exact_match_passes_over_punctuation_width_and_thoughts() -> None:
    found = score_texts(["<think>hm</think>\nＹes.", "no"], ["yes", "yes"])
    assert found["exact_match"].value == 50
    assert normalised("?") != normalised("!")
    assert answer_of("<think>never ended") == ""


def test_lf_scores_are_llama_factorys() -> None:
    # made once by rouge_chinese 1.0.3 and nltk 3.10.4, as LLaMA Factory 0.9.5 calls them
    rows = {
        ("您好，退货请在签收后七天内申请。谢谢！", "您好，退货需在七天内提出申请。感谢您！"): (
            [60.8696, 28.5714, 60.8696],
            33.125,
        ),
        ("The quick brown fox\n\njumps", "hello world, this is a test. ok?"): (
            [0.0, 0.0, 0.0],
            3.5899,
        ),
        ("退货", "我想退货，应该怎么办？\n\n请联系客服。"): ([15.3846, 0.0, 14.2857], 0.0121),
    }
    for (answer, reference), (rouge, bleu_score) in rows.items():
        assert lf_rouge(answer, reference) == pytest.approx(rouge, abs=1e-4)
        assert lf_bleu_4(answer, reference) == pytest.approx(bleu_score, abs=1e-4)
    assert lf_rouge("", "x") == [0.0, 0.0, 0.0] and lf_bleu_4("", "x") == 0.0


def test_lf_bleu_is_the_formula_of_the_third_smoothing() -> None:
    a, b = "abcd", "abxd"
    precisions = []
    missed = 0
    for n in (1, 2, 3, 4):
        ours = Counter(a[i : i + n] for i in range(len(a) - n + 1))
        theirs = Counter(b[i : i + n] for i in range(len(b) - n + 1))
        both, total = sum((ours & theirs).values()), sum(ours.values())
        if not both:
            missed += 1
        precisions.append(both / total if both else 1 / (2**missed * total))
    wanted = 100 * math.exp(sum(math.log(p) for p in precisions) / 4)
    assert lf_bleu_4(a, b) == pytest.approx(wanted, abs=1e-4)


def test_short_equal_texts_have_bigrams_enough() -> None:
    assert rouge_n(["a"], ["a"], 2) == 100 and rouge_n(["a"], ["b"], 2) == 0


def test_perplexity_weighs_rows_by_their_tokens() -> None:
    found = losses([(10.0, 10), (4.0, 1)])
    assert found["loss"].value == pytest.approx(14 / 11)
    assert found["perplexity"].value == pytest.approx(math.exp(14 / 11))


def test_the_interval_of_a_mean_is_the_normal_one() -> None:
    values = np.random.default_rng(0).normal(50, 10, 400)
    found = interval(mean_of(METRICS["rouge_l"], list(values)), seed=7)
    half = 1.96 * values.std() / math.sqrt(400)
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.25)
    assert found.high == pytest.approx(values.mean() + half, abs=0.25)
    assert interval(mean_of(METRICS["rouge_l"], list(values)), seed=7) == found


def test_pairing_finds_a_small_steady_gain_in_noisy_rows() -> None:
    noise = np.random.default_rng(1).normal(50, 20, 60)
    base = mean_of(METRICS["rouge_l"], list(noise))
    tuned = mean_of(METRICS["rouge_l"], list(noise + 1))
    found = difference(tuned, base, seed=0)
    assert found.real and found.better and found.change.value == pytest.approx(1)
    back = difference(base, tuned, seed=0)
    assert back.change.low == pytest.approx(-found.change.high) and back.better is False


def test_the_bootstrap_of_a_corpus_score_scores_the_drawn_texts() -> None:
    ours, theirs = sentences(8, 12), sentences(9, 12)
    measured = score_texts(ours, theirs)["chrf"]
    first = np.random.default_rng(5).integers(0, 12, size=(100, 12))[0]
    again = score_texts([ours[i] for i in first], [theirs[i] for i in first])["chrf"].value
    assert draws(measured, seed=5, resamples=100)[0] == pytest.approx(again)


def test_no_difference_is_called_real_by_chance_or_on_few_rows() -> None:
    draw = np.random.default_rng(2)
    a, b = draw.normal(50, 20, 60), draw.normal(50, 20, 60)
    chance = difference(
        mean_of(METRICS["rouge_l"], list(a)), mean_of(METRICS["rouge_l"], list(b)), seed=0
    )
    assert not chance.real and "no real difference" in chance.sentence("B", "A").en
    few = [1.0] * (FEWEST_ROWS - 1)
    zero = [0.0] * (FEWEST_ROWS - 1)
    found = difference(mean_of(METRICS["rouge_l"], few), mean_of(METRICS["rouge_l"], zero), seed=0)
    assert not found.real and "too few" in found.sentence("B", "A").en


def test_a_lower_loss_is_better() -> None:
    base, tuned = losses([(3.0, 1)] * 9), losses([(2.0, 1)] * 9)
    found = difference(tuned["loss"], base["loss"], seed=0)
    assert found.better and found.real and "really better" in found.sentence("tuned", "base").en
