from __future__ import annotations

from dataclasses import replace

import pytest
from tests.datasets.rows_for_tests import sample

from slipway.datasets import Message, Sample
from slipway.datasets.quality import assess
from slipway.datasets.reasons import POINTS, Reason, reasons_of, score_of
from slipway.datasets.scripts import LANGUAGES

LONG = " ".join(f"word{n}" for n in range(60))
QUESTION = "How do I send a broken lamp back to you?"


def reasons(one: Sample) -> set[str]:
    return {str(reason) for reason in reasons_of(assess(one).bits)}


@pytest.mark.parametrize(
    ("question", "answer", "wanted"),
    [
        (QUESTION, "Pack it well and print the label from your account.", set()),
        ("怎么开发票？", "请在「我的订单」里点击申请开票。", set()),
        (QUESTION, "...", {"empty_answer"}),
        (QUESTION, "N/A", {"empty_answer"}),
        (QUESTION, "无答案", {"empty_answer"}),
        (QUESTION, "I'm sorry, but I can't assist with that request.", {"refusal"}),
        (QUESTION, "As an AI language model, I have no lamp.", {"refusal"}),
        ("怎么修改订单的收货地址？", "很抱歉，我无法回答这个问题。", {"refusal"}),
        ("作业怎么写？", "作为一个人工智能助手，我建议你先列提纲。", {"refusal"}),
        (QUESTION, "Sorry, the shop cannot send lamps to Norway.", set()),
        ("能货到付款吗？", "抱歉，我们店铺不支持货到付款。", set()),
        ("Is the lamp still under warranty after two years?", "Yes", {"short_answer"}),
        (QUESTION, LONG + ",", {"unfinished"}),
        (QUESTION, LONG + ".", set()),
        (QUESTION, LONG + "\n```python\nprint(1)", {"unfinished"}),
        (QUESTION, "very good lamp " * 20 + ".", {"repetition"}),
        (QUESTION, f"{QUESTION} Pack it well.", {"echo"}),
        (QUESTION, "请把灯包好，然后在订单页申请退货。", {"language"}),
        ("Translate into Chinese: how do I send it back?", "我怎么把它寄回去呢？", set()),
        ("怎么开增值税发票给公司？", "You can ask for it in your account page.", {"language"}),
        (QUESTION, "Itâ€™s free, pack it well.", {"garbled"}),
        (QUESTION, "Pack it \x00 well please.", {"garbled"}),
        ("怎么退货？", "锟斤拷锟斤拷请联系客服", {"garbled"}),
        ("怎么退货？", "浣犲ソ锛岃鑱旂郴瀹㈡湇", {"garbled"}),
        (QUESTION, "<p>Pack it well.</p><br/>", {"html"}),
        ("Which HTML tag makes a paragraph?", "It is <p>text</p>.", set()),
        (QUESTION, "Dear [Your Name], pack it well.", {"placeholder"}),
        ("你是谁？", "我是 {{name}}，由 {{author}} 开发。", {"placeholder"}),
        ("Who are you then?", "I am ChatGPT, made by OpenAI.", {"identity"}),
        ("你是谁呀？", "我是通义千问，由阿里云开发。", {"identity"}),
        ("我的电话是 13812345678", "好的，已经记下了。", {"personal"}),
        ("???", "What do you want to know?", {"vague_question"}),
    ],
)
def test_each_reason_is_seen_and_good_rows_have_none(
    question: str, answer: str, wanted: set[str]
) -> None:
    assert reasons(sample(question, answer)) == wanted


def test_a_thought_is_not_taken_for_the_answer() -> None:
    thought = "<think>\nI can't assist with that... or can I?\n</think>\n\n"
    assert reasons(sample(QUESTION, thought + "Pack it well, then send it.")) == set()
    assert reasons(sample(QUESTION, thought + "...")) == {"empty_answer"}


def test_answers_in_the_middle_of_a_conversation_count_too() -> None:
    one = sample(QUESTION, "I cannot help with that.", "Why not?", "Because it is a secret.")
    assert reasons(one) == {"refusal"}


def test_of_a_pair_the_better_answer_counts_and_both_must_differ() -> None:
    pair = Sample(
        "p",
        (Message("user", QUESTION),),
        sample().file,
        1,
        chosen=Message("assistant", "Pack it well and send it to us."),
        rejected=Message("assistant", "I can't assist with that."),
    )
    assert reasons(pair) == set()
    assert reasons(replace(pair, rejected=pair.chosen)) == {"same_answers"}
    assert reasons(replace(pair, chosen=pair.rejected, rejected=pair.chosen)) == {"refusal"}


def test_a_bad_answer_that_is_marked_bad_is_no_fault() -> None:
    one = sample(QUESTION, "I can't assist with that.")
    assert reasons(replace(one, desirable=False)) == set()
    assert reasons(replace(one, desirable=True)) == {"refusal"}


def test_a_text_is_looked_at_as_a_whole() -> None:
    text = Sample("t", (), sample().file, 1, text="same words again " * 30)
    assert reasons(text) == {"repetition"}


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Where is it", "latin"),
        ("到哪了", "zh"),
        ("これは何ですか", "ja"),
        ("안녕하세요", "ko"),
        ("где посылка", "cyrillic"),
        ("我的 parcel 在 where", "mixed"),
        ("123 456", "none"),
    ],
)
def test_the_language_is_told_by_the_script(text: str, language: str) -> None:
    assert LANGUAGES[assess(sample(text, text)).language] == language


def test_a_score_is_100_less_the_points_and_never_below_0() -> None:
    assert score_of([]) == 100
    assert score_of([Reason.HTML, Reason.ECHO]) == 100 - POINTS[Reason.HTML] - POINTS[Reason.ECHO]
    assert score_of(Reason) == 0
