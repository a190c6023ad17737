"""Personal data in texts: found, counted and replaced by typed placeholders.

What is found carries its own proof where there is one: an identity card number its check digit and
birth date (GB 11643-1999, ISO 7064 MOD 11-2), a bank card its issuer's prefix and check digit
(ISO/IEC 7812, Luhn), a telephone number the length and the area code of its plan. Names and
addresses have no such form; they are not found.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import date
from typing import Literal, get_args

PersonalKind = Literal[
    "mobile", "landline", "phone_abroad", "id_card", "email", "bank_card", "ipv4"
]
KINDS: tuple[PersonalKind, ...] = get_args(PersonalKind)
USUAL: frozenset[PersonalKind] = frozenset(KINDS) - {"ipv4"}
"""What is looked for unless told otherwise: an IP address is more often a server than a person."""

PLACEHOLDERS: dict[PersonalKind, str] = {
    "mobile": "MOBILE",
    "landline": "LANDLINE",
    "phone_abroad": "PHONE",
    "id_card": "ID_CARD",
    "email": "EMAIL",
    "bank_card": "BANK_CARD",
    "ipv4": "IP",
}

# first digits of an identity card: provinces, autonomous regions, municipalities, and abroad
_PROVINCES = frozenset(
    str(n)
    for first, last in ((11, 15), (21, 23), (31, 37), (41, 46), (50, 54), (61, 65), (71, 71))
    for n in (*range(first, last + 1), 81, 82, 83, 91)
)
_ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_ID_CHECKS = "10X98765432"
# names kept for examples (RFC 2606, RFC 6761): nobody lives there
_EXAMPLE_DOMAINS = re.compile(
    r"(?:^|\.)(?:example(?:\.(?:com|net|org|cn))?|test|invalid|localhost)$"
)

_ASK = re.compile(r"@|\d[\d\s().\-]{5,}\d", re.ASCII)
_NOT_IN_NUMBER = r"(?<![\d.])(?<![\d][-])"
_ENDS = r"(?!\d)(?!-\d)(?!\.\d)"
_DASH = r"[ \-]?"
_PATTERNS: tuple[tuple[PersonalKind, re.Pattern[str]], ...] = (
    (
        "email",
        re.compile(
            r"(?<![A-Za-z0-9._%+\-])[A-Za-z0-9._%+\-]{1,64}@(?:[A-Za-z0-9\-]{1,63}\.){1,8}[A-Za-z]{2,24}",
            re.ASCII,
        ),
    ),
    ("id_card", re.compile(rf"{_NOT_IN_NUMBER}[1-9]\d{{16}}[\dXx](?![0-9A-Za-z])", re.ASCII)),
    (
        "bank_card",
        re.compile(rf"{_NOT_IN_NUMBER}[2-6]\d{{3}}(?:{_DASH}\d{{2,4}}){{2,4}}\d{_ENDS}", re.ASCII),
    ),
    (
        "mobile",
        re.compile(
            rf"(?:(?<![\d.])(?:\+|00)86{_DASH})?(?<![\d.])(?<!\d-)"
            rf"1[3-9]\d(?:\d{{8}}|{_DASH}\d{{4}}{_DASH}\d{{4}}){_ENDS}",
            re.ASCII,
        ),
    ),
    (
        "landline",
        re.compile(
            r"(?:(?<![\d.])(?:\+|00)86[ \-]?|(?<![\d.])(?<!\d-))"
            r"(?:[(（]0?(?P<a>10|2\d|[3-9]\d\d)[)）][ \-]?|0?(?P<b>10|2\d|[3-9]\d\d)[ \-])"
            rf"[2-8]\d{{2,3}}[ \-]?\d{{4}}(?:(?:-|转|ext\.? ?)\d{{1,5}})?{_ENDS}",
            re.ASCII,
        ),
    ),
    (
        "phone_abroad",
        re.compile(
            rf"(?<![\d.+])\+[1-9]\d{{0,2}}(?:[ \-.]?\(?\d{{1,4}}\)?){{2,5}}{_ENDS}", re.ASCII
        ),
    ),
    (
        "ipv4",
        re.compile(r"(?<![\w.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)"
                   r"(?![\d.]*\d)", re.ASCII),
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Found:
    """A piece of personal data: `text[start:end]`."""

    kind: PersonalKind
    start: int
    end: int


def find_personal(text: str, kinds: Collection[PersonalKind] = USUAL) -> list[Found]:
    """What of `kinds` stands in a text, in order, none inside another.

    Where two kinds fit, the one with the stronger proof is taken (`KINDS` from right: an identity
    card before a bank card, a bank card before a telephone).
    """
    if not _ASK.search(text):
        return []
    found: list[Found] = []
    for kind, pattern in _PATTERNS:
        if kind not in kinds:
            continue
        for match in pattern.finditer(text):
            start, end = match.span()
            if _holds(kind, match.group(), match) and not any(
                start < other.end and other.start < end for other in found
            ):
                found.append(Found(kind, start, end))
    return sorted(found, key=lambda one: one.start)


def _holds(kind: PersonalKind, text: str, match: re.Match[str]) -> bool:
    digits = re.sub(r"\D", "", text)
    if kind == "id_card":
        return is_id_card(text)
    if kind == "bank_card":
        return is_bank_card(digits)
    if kind == "email":
        return not _EXAMPLE_DOMAINS.search(text.rpartition("@")[2].lower())
    if kind == "phone_abroad":
        return (
            8 <= len(digits) <= 15 and not digits.startswith("86") and len(text) - len(digits) <= 7
        )
    if kind == "landline":
        # without the 0, only behind +86 or in brackets can it be an area code
        area = match.group("a") or match.group("b")
        before = text[: text.index(area)]
        return before.endswith("0") or "86" in before
    return kind != "ipv4" or text not in ("0.0.0.0", "127.0.0.1", "255.255.255.255")


def is_id_card(text: str) -> bool:
    """Whether 18 characters are a Chinese identity card number: region, birth date, check digit.

    Source: GB 11643-1999; the check digit is ISO 7064 MOD 11-2.
    """
    if len(text) != 18 or not (text[:17].isascii() and text[:17].isdigit()):
        return False
    if text[:2] not in _PROVINCES:
        return False
    try:
        born = date(int(text[6:10]), int(text[10:12]), int(text[12:14]))
    except ValueError:
        return False
    if not 1900 <= born.year <= 2100:
        return False
    total = sum(int(digit) * weight for digit, weight in zip(text, _ID_WEIGHTS, strict=False))
    return _ID_CHECKS[total % 11] == text[17].upper()


def is_bank_card(digits: str) -> bool:
    """Whether digits are a card number: a known issuer's prefix, its length, and Luhn's check.

    UnionPay 62 (16 to 19 digits), Visa 4 (16), Mastercard 51-55 and 2221-2720 (16), JCB 3528-3589
    (16), Discover 6011 and 65 (16). Old cards of Chinese banks that begin with other digits are not
    told from other long numbers and are not found.
    """
    if not 16 <= len(digits) <= 19 or not _luhn(digits) or len(set(digits)) < 3:
        return False
    if digits.startswith("62"):
        return True
    four = int(digits[:4])
    known = digits[0] == "4" or 5100 <= four <= 5599 or 2221 <= four <= 2720
    known = known or 3528 <= four <= 3589 or four == 6011 or digits.startswith("65")
    return known and len(digits) == 16


def _luhn(digits: str) -> bool:
    total = 0
    for position, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + position % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


class Mask:
    """Replaces personal data in the texts of one row: the same value gets the same placeholder.

    Attributes:
        counts: kind -> pieces replaced.
    """

    def __init__(self, kinds: Collection[PersonalKind] = USUAL) -> None:
        self._kinds = kinds
        self._names: dict[tuple[str, str], str] = {}
        self.counts: dict[PersonalKind, int] = {}

    def text(self, text: str) -> str:
        """The text with placeholders such as `[MOBILE_1]`."""
        found = find_personal(text, self._kinds)
        if not found:
            return text
        parts, at = [], 0
        for one in found:
            parts += [text[at : one.start], self._name(one.kind, text[one.start : one.end])]
            self.counts[one.kind] = self.counts.get(one.kind, 0) + 1
            at = one.end
        return "".join([*parts, text[at:]])

    def _name(self, kind: PersonalKind, value: str) -> str:
        plain = value.lower() if kind in ("email", "id_card") else re.sub(r"\D", "", value)
        if kind in ("mobile", "landline"):
            plain = re.sub(r"^(00)?86(?=\d{9,})", "", plain)
        word = PLACEHOLDERS[kind]
        taken = sum(1 for other, _ in self._names if other == word)
        return self._names.setdefault((word, plain), f"[{word}_{taken + 1}]")


def kinds_in(texts: Collection[str]) -> Iterator[PersonalKind]:
    """The kind of each piece of personal data in some texts."""
    for text in texts:
        for one in find_personal(text):
            yield one.kind
