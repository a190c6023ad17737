"""Text files cut into passages that an embedding model can read at once."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from slipway.core.errors import NotFoundError, from_os_error
from slipway.core.i18n import tr

LARGEST_FILE = 16 << 20
_SENTENCE = re.compile(r"(?<=[.!?。！？；;])\s*")


@dataclass(frozen=True, slots=True)
class Chunk:
    """A passage of a file.

    Attributes:
        path: below the folder, with `/`.
        first_line: of the passage, from 1.
        last_line: of the passage; the same line when it is a part of one.
        key: SHA-256 of the text.
    """

    path: str
    first_line: int
    last_line: int
    text: str
    key: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that was left out, and why (`not_text`, `too_large`, `unreadable`)."""

    path: str
    reason: str


def text_files(folder: Path, globs: Sequence[str]) -> Iterator[Path]:
    """Files below a folder, sorted; hidden ones and links out of it are none of its files.

    Args:
        globs: patterns of names or of paths below the folder; none takes every file.

    Raises:
        NotFoundError: no such folder.
    """
    if not folder.is_dir():
        raise NotFoundError(
            "embed.no_folder",
            tr("{path} is no folder", path=str(folder)),
            tr("give the folder of the text files, such as `--folder docs`"),
        )

    def failed(error: OSError) -> None:
        raise from_os_error(error, error.filename or folder)

    for parent, folders, names in os.walk(folder, onerror=failed):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(parent) / name
            below = path.relative_to(folder).as_posix()
            wanted = not globs or any(
                fnmatch.fnmatch(name, glob) or fnmatch.fnmatch(below, glob) for glob in globs
            )
            if wanted and not name.startswith(".") and path.is_file() and not path.is_symlink():
                yield path


def read_chunks(
    folder: Path, globs: Sequence[str], most_tokens: int
) -> tuple[list[Chunk], list[Skipped]]:
    """Every passage below a folder, and the files that hold no text."""
    chunks: list[Chunk] = []
    skipped: list[Skipped] = []
    for path in text_files(folder, globs):
        below = path.relative_to(folder).as_posix()
        try:
            if path.stat().st_size > LARGEST_FILE:
                skipped.append(Skipped(below, "too_large"))
                continue
            text = path.read_text("utf-8-sig")
        except UnicodeDecodeError:
            skipped.append(Skipped(below, "not_text"))
            continue
        except OSError:
            skipped.append(Skipped(below, "unreadable"))
            continue
        if "\0" in text:
            skipped.append(Skipped(below, "not_text"))
            continue
        chunks.extend(chunks_of(below, text, most_tokens))
    return chunks, skipped


def chunks_of(path: str, text: str, most_tokens: int) -> Iterator[Chunk]:
    """The passages of a text: whole paragraphs as far as they fit, else lines, else sentences.

    Args:
        most_tokens: an estimate of the tokens that a passage may have.
    """
    begun: list[str] = []
    first, tokens = 1, 0

    def made() -> Iterator[Chunk]:
        while begun and not begun[-1].strip():
            begun.pop()
        if begun:
            yield chunk(path, first, first + len(begun) - 1, "\n".join(begun).strip())

    for number, line in enumerate(text.splitlines(), 1):
        cost = estimate(line)
        # a paragraph that begins in the last half of a passage begins the next one
        begins = not line.strip() and tokens > most_tokens // 2
        if tokens and (tokens + cost > most_tokens or begins):
            yield from made()
            begun, tokens = [], 0
        if not begun:
            if not line.strip():
                continue
            first = number
        if cost > most_tokens:
            for part in _parts(line, most_tokens):
                yield chunk(path, number, number, part)
            begun, tokens = [], 0
            continue
        begun.append(line)
        tokens += cost
    yield from made()


def chunk(path: str, first: int, last: int, text: str) -> Chunk:
    """A passage with its digest."""
    return Chunk(path, first, last, text, hashlib.sha256(text.encode()).hexdigest())


def halves(whole: Chunk) -> list[Chunk]:
    """A passage cut in two where a line, a sentence or a word ends nearest to the middle."""
    text, middle = whole.text, len(whole.text) // 2
    for mark in ("\n", *"。！？", ". ", " ", ""):
        at = text.rfind(mark, 1, middle + 1) if mark else middle
        if at > len(text) // 4:
            at += len(mark.rstrip())
            break
    parts = []
    line = whole.first_line
    for part in (text[:at], text[at:]):
        last = line + part.strip("\n").count("\n") if whole.last_line > whole.first_line else line
        if part.strip():
            parts.append(chunk(whole.path, line, min(last, whole.last_line), part.strip()))
        line = min(whole.first_line + text[:at].count("\n"), whole.last_line)
    return parts


def estimate(text: str) -> int:
    """About how many tokens a text has: one for a Chinese character, one for three others."""
    wide = sum(1 for c in text if unicodedata.east_asian_width(c) in "WF")
    return wide + (len(text) - wide + 2) // 3


def _parts(line: str, most_tokens: int) -> Iterator[str]:
    """A long line by sentences; a sentence that is too long by its length."""
    begun = ""
    for sentence in _SENTENCE.split(line):
        if begun and estimate(begun) + estimate(sentence) > most_tokens:
            yield begun.strip()
            begun = ""
        while estimate(sentence) > most_tokens:
            piece = sentence[:most_tokens]
            yield piece.strip() or piece
            sentence = sentence[most_tokens:]
        begun += (" " if begun and begun[-1].isascii() else "") + sentence
    if begun.strip():
        yield begun.strip()
