"""What is wrong with a text or an answer, seen in the text alone. Each test is quick and says yes
only to what a person would also call wrong; see docs/data-quality.md for what each looks at.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_THOUGHT = re.compile(r"\s*<think>.*?</think>\s*", re.DOTALL)

_NOTHING = frozenset(
    ("", "n a", "null", "nan", "undefined", "todo", "tbd", "no answer", "no response", "no output")
) | {"暂 无", "无 答 案", "待 补 充", "略"}
_REFUSALS = re.compile(
    r"\bI(?: am|['’]m)? (?:cannot|can['’]t|can not|could not|unable to|not able to|"
    r"will not|won['’]t|"
    r"not comfortable)(?: \w+){0,2}? (?:help|assist|answer|provide|fulfill?|comply|respond|discuss|"
    r"generate|create|write|engage|continue|complete|do that|with that|offer|share|give)"
    r"|\bas an? (?:AI|artificial intelligence|(?:large )?language model)"
    r"|作为(?:一个|一款|一名|一种)?(?:AI|人工智能|大?语言模型|智能助手)"
    r"|我(?:无法|不能|没有?办法|没法|不可以)(?:直接|继续|为您?|给您?|向您?|帮您?|帮你|为你|对此|就此)*"
    r"(?:回答|提供|协助|帮助|满足|完成|生成|讨论|参与|处理这|给出|执行|访问)"
    r"|(?:抱歉|对不起)[，,。 ]*(?:我)?(?:还)?(?:无法|不能)(?:回答|提供|协助|满足|完成|生成)",
    re.IGNORECASE,
)
_HEAD = 240
# what stands in every text that the slow patterns below fit: looked for first, in lower case
_BEFORE_REFUSAL: tuple[str, ...] = (
    "i can",
    "i am ",
    "i'm ",
    "i’m ",
    "i could",
    "i w",
    "as a",
    "作为",
    "无法",
    "不能",
    "没",
)
_BEFORE_REFUSAL += ("不可以",)
_BEFORE_IDENTITY: tuple[str, ...] = (
    "ed by ",
    "made by ",
    "built by ",
    "i am ",
    "i'm ",
    "i’m ",
    "name is ",
    "我是",
    "我叫",
)
_BEFORE_IDENTITY += ("由",)

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_GARBLED = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffd\ue000-\uf8ff锛銆鈥]|锟斤拷|烫烫烫|屯屯屯"
    "|[ÃÂ][\x80-\xbf]|â€|ï¿½"
    "|[äåæçèé][\x80-\xbf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013-\u2122]{2}"
)
_HTML = re.compile(
    r"</?(?:p|br|div|span|a|b|i|u|strong|em|ul|ol|li|table|tr|td|th|h[1-6]|img|font|script|style|"
    r"pre|blockquote|center|hr)(?:\s[^<>]{0,200})?/?>|&(?:nbsp|amp|lt|gt|quot|#\d{2,5});",
    re.IGNORECASE,
)
_ABOUT_CODE = re.compile(
    r"```|html|xml|css|javascript|\bcode\b|\btag|网页|代码|标签|编程|程序|脚本|函数|爬虫",
    re.IGNORECASE,
)
_PLACEHOLDER = re.compile(
    r"\{\{\s*\w+\s*\}\}|\[(?:your|insert|enter|add)\b[^\]\n]{1,40}\]|<(?:your|insert)\b[^>\n]{1,40}>"
    r"|\bTODO\b|\bTBD\b|lorem ipsum|[\[【](?:请|您的|你的|此处|填写|插入)[^\]】\n]{1,30}[\]】]",
    re.IGNORECASE,
)
_BEFORE_PLACEHOLDER = ("{{", "[", "【", "<", "todo", "tbd", "lorem")
_MAKERS = (
    r"(?:OpenAI|Anthropic|Google|DeepMind|Meta AI|Microsoft|Mistral|DeepSeek|Moonshot|"
    r"Alibaba(?: Cloud)?|Baidu|Tencent|ByteDance|"
    r"阿里(?:巴巴|云)?|百度|腾讯|字节跳动|科大讯飞|讯飞|智谱|深度求索|月之暗面)"
)
_NAMES = (
    r"(?:ChatGPT|GPT-?[345]\w*|Claude|Gemini|Bard|Copilot|LLaMA|Qwen|通义千问|文心一言|豆包|Kimi|混元|星火|ChatGLM"
    r"|DeepSeek)"
)
_IDENTITY = re.compile(
    rf"\b(?:I am|I['’]m|my name is) {_NAMES}\b"
    rf"|(?:trained|developed|created|made|built) by {_MAKERS}\b"
    rf"|我(?:是|叫)\s*{_NAMES}|由\s*{_MAKERS}\s*(?:公司|团队)?\s*(?:开发|训练|研发|创造|打造)",
    re.IGNORECASE,
)
_LIST_ITEM = re.compile(r"\s*(?:[-*+•·]|\d{1,3}[.)、]|\|)")
_OPEN_ENDS = frozenset(",，、;；:：(（-–—")
_TRANSLATION = re.compile(
    r"翻译|译成|译为|英文|英语|中文|汉语|日文|日语|法语|德语|韩语|俄语|西班牙语|用.{1,4}语|代码|函数|编程|程序"
    r"|translat|\bEnglish\b|\bChinese\b|\bJapanese\b|\bKorean\b|\bFrench\b|\bGerman\b|\bRussian\b"
    r"|\bSpanish\b|\bcode\b|python|java|\bsql\b|c\+\+|写一[个段].{0,12}(?:脚本|正则|公式)|```",
    re.IGNORECASE,
)


def without_thought(answer: str) -> str:
    """The answer behind its `<think>...</think>`."""
    return _THOUGHT.sub("", answer, count=1) if answer.lstrip()[:7] == "<think>" else answer


def says_nothing(units: Sequence[str]) -> bool:
    """No words at all, or one of the texts that stand for none."""
    return len(units) <= 4 and " ".join(units) in _NOTHING


def refuses(answer: str) -> bool:
    """The answer begins by refusing; one that says what a *shop* cannot do does not."""
    head = answer[:_HEAD]
    return _any_of(_BEFORE_REFUSAL, head) and _REFUSALS.search(head) is not None


def is_garbled(text: str) -> bool:
    """Control characters, replacement characters, or UTF-8 that was read as something else."""
    return (_CONTROL if text.isascii() else _GARBLED).search(text) is not None


def has_html(answer: str, question: str) -> bool:
    """Tags or entities in an answer, unless code is what it is about."""
    if "<" not in answer and "&" not in answer:
        return False
    return bool(_HTML.search(answer) and not _ABOUT_CODE.search(question) and "```" not in answer)


def has_placeholder(answer: str) -> bool:
    """`{{name}}`, `[Your Name]`, `TODO`: a template that nobody filled in."""
    return _any_of(_BEFORE_PLACEHOLDER, answer) and _PLACEHOLDER.search(answer) is not None


def is_another(answer: str) -> bool:
    """The answer says that it is, or comes from, a known assistant or its maker."""
    return _any_of(_BEFORE_IDENTITY, answer) and _IDENTITY.search(answer) is not None


def repeats_itself(units: Sequence[str]) -> bool:
    """Of the runs of four units, less than six in ten are different ones."""
    runs = len(units) - 3
    if runs < 21:
        return False
    return len(set(zip(units, units[1:], units[2:], units[3:], strict=False))) < 0.6 * runs


def stops_in_the_middle(answer: str, units: Sequence[str]) -> bool:
    """A long answer that ends with a comma, an open code block, or a long line without an end."""
    if len(units) < 40:
        return False
    text = answer.rstrip()
    if text.count("```") % 2:
        return True
    last = text[-1]
    if last in _OPEN_ENDS:
        return True
    line = text[text.rfind("\n") + 1 :]
    return last.isalnum() and len(line) >= 60 and not _LIST_ITEM.match(line) and "```" not in text


def asks_for_another_language(text: str) -> bool:
    """A translation, or code, is asked for: the answer may be in another script."""
    return _TRANSLATION.search(text) is not None


def _any_of(parts: Sequence[str], text: str) -> bool:
    lower = text.lower()
    for part in parts:  # noqa: SIM110 - `any` takes twice as long, and this runs for every answer
        if part in lower:
            return True
    return False
