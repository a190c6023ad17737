"""The vectors of a folder's passages, kept in one file; only what is new is embedded."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from zipfile import BadZipFile

from slipway.cli.vectors.chunks import Chunk, Skipped, halves
from slipway.core.errors import SlipwayError
from slipway.core.files import write_bytes
from slipway.core.paths import Home

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

VERSION = 1
_BATCH = 32
_SAVE_EVERY = 1024
_SHORTEST = 8  # characters; a passage is not cut below that

Embed = Callable[[Sequence[str]], list[list[float]]]
Found = Literal["nothing", "kept", "other", "damaged"]


@dataclass
class Index:
    """The passages of a folder with their vectors.

    Attributes:
        recipe: what a vector depends on besides its text: the model's digest, the prefix.
        chunks: every passage, in the order of the files.
        vectors: key of a passage's text -> its place in `matrix`.
        matrix: float32, a row of unit length for each text.
        parts: key of a passage that was too long for the model -> the passages it became.
    """

    recipe: dict[str, Any]
    chunks: list[Chunk] = field(default_factory=list)
    vectors: dict[str, int] = field(default_factory=dict)
    matrix: NDArray[np.float32] | None = None
    parts: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that a search found; `score` is the cosine, at most 1."""

    score: float
    chunk: Chunk

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {"score": self.score, **asdict(self.chunk)}


@dataclass(slots=True)
class Report:
    """What an update did; numbers of passages, and of files."""

    files: int = 0
    chunks: int = 0
    embedded: int = 0
    reused: int = 0
    removed_files: list[str] = field(default_factory=list)
    split: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    began_anew: bool = False


def index_path(home: Home, folder: Path, model: str) -> Path:
    """Where the vectors of a folder by a model are kept."""
    where = hashlib.sha256(f"{folder.resolve()}\n{model}".encode()).hexdigest()[:16]
    return home.root / "embeddings" / f"{folder.resolve().name or 'root'}-{where}.npz"


def load(path: Path, recipe: dict[str, Any]) -> tuple[Index, Found]:
    """The index of that file; an empty one when there is none, or it was made otherwise.

    Returns:
        the index, and what was found: `nothing`, `kept`, vectors of another recipe (`other`), or
        a file that is no index (`damaged`).
    """
    import numpy as np

    if not path.exists():
        return Index(recipe), "nothing"
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            meta = json.loads(bytes(stored["meta"]))
            matrix = stored["vectors"]
        if meta["version"] != VERSION or meta["recipe"] != recipe:
            return Index(recipe), "other"
        chunks = [Chunk(**row) for row in meta["chunks"]]
        vectors = {key: place for place, key in enumerate(meta["keys"])}
        if matrix.ndim != 2 or len(matrix) != len(vectors) or matrix.dtype != np.float32:
            return Index(recipe), "damaged"
    except (OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, BadZipFile):
        return Index(recipe), "damaged"
    return Index(recipe, chunks, vectors, matrix, meta["parts"]), "kept"


def save(path: Path, index: Index) -> None:
    """Write the index; a reader sees the old one or the new one."""
    import numpy as np

    keys = sorted(index.vectors, key=index.vectors.__getitem__)
    meta = {
        "version": VERSION,
        "recipe": index.recipe,
        "chunks": [asdict(chunk) for chunk in index.chunks],
        "keys": keys,
        "parts": index.parts,
    }
    matrix = index.matrix if index.matrix is not None else np.zeros((0, 0), np.float32)
    data = io.BytesIO()
    packed = np.frombuffer(json.dumps(meta, ensure_ascii=False).encode(), np.uint8)
    np.savez(data, vectors=matrix, meta=packed)
    write_bytes(path, data.getvalue(), mode=0o600)  # it holds the texts


def update(
    index: Index,
    chunks: Sequence[Chunk],
    embed: Embed,
    *,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    checkpoint: Callable[[], None] = lambda: None,
) -> Report:
    """Bring the index to these passages; texts whose vectors are known are not embedded again.

    Args:
        on_progress: called with the passages embedded and those to embed.
        checkpoint: called now and then, and when it is interrupted: what is done can be saved.

    Raises:
        SlipwayError: the model cannot embed; what was done before is in the index.
    """
    old_files = {chunk.path for chunk in index.chunks}
    new = _Vectors(index)
    report = Report(files=len({chunk.path for chunk in chunks}))
    wanted = {chunk.key: chunk for chunk in chunks}
    missing = [chunk for key, chunk in wanted.items() if not new.knows(key)]
    unsaved = 0
    try:
        for start in range(0, len(missing), _BATCH):
            batch = missing[start : start + _BATCH]
            report.split += _embed_batch(new, batch, embed)
            unsaved += len(batch)
            on_progress(min(start + _BATCH, len(missing)), len(missing))
            if unsaved >= _SAVE_EVERY:
                unsaved = 0
                new.store()
                checkpoint()
    except BaseException:
        new.store()
        checkpoint()
        raise
    index.chunks = [part for chunk in chunks for part in new.leaves(chunk)]
    new.store(keep={chunk.key for chunk in index.chunks}, roots=set(wanted))
    report.chunks = len(index.chunks)
    report.embedded = sum(chunk.key in new.made for chunk in index.chunks)
    report.reused = report.chunks - report.embedded
    report.removed_files = sorted(old_files - {chunk.path for chunk in chunks})
    return report


class _Vectors:
    """The vectors of an index, and those that were made since it was stored.

    Attributes:
        made: keys of all texts that were embedded.
    """

    def __init__(self, index: Index) -> None:
        self._index = index
        self._fresh: dict[str, list[float]] = {}
        self.made: set[str] = set()

    def knows(self, key: str) -> bool:
        """Whether a text, or all the parts it was cut into, have vectors."""
        if key in self._index.vectors or key in self._fresh:
            return True
        parts = self._index.parts.get(key)
        return parts is not None and all(self.knows(part) for part in parts)

    def add(self, key: str, vector: list[float]) -> None:
        """Note a vector."""
        self._fresh[key] = vector
        self.made.add(key)

    def cut(self, key: str, parts: Sequence[Chunk]) -> None:
        """Note that a text was too long, and what it became."""
        self._index.parts[key] = [part.key for part in parts]

    def leaves(self, chunk: Chunk) -> list[Chunk]:
        """The passages that have vectors: it, or its parts."""
        if chunk.key not in self._index.parts:
            return [chunk]
        return [leaf for part in halves(chunk) for leaf in self.leaves(part)]

    def store(self, keep: set[str] | None = None, roots: set[str] | None = None) -> None:
        """Put all vectors into the index; with `keep` only those, and the cuts below `roots`."""
        import numpy as np

        index = self._index
        known = [*index.vectors, *(key for key in self._fresh if key not in index.vectors)]
        keys = [key for key in known if keep is None or key in keep]
        rows = [
            np.asarray(self._fresh[key], np.float32)
            if key in self._fresh or index.matrix is None
            else index.matrix[index.vectors[key]]
            for key in keys
        ]
        index.matrix = np.stack(rows) if rows else None
        index.vectors = {key: place for place, key in enumerate(keys)}
        self._fresh = {}
        if roots is not None:
            used = set(roots)
            waiting = list(roots)
            while waiting:
                parts = index.parts.get(waiting.pop(), [])
                used.update(parts)
                waiting.extend(parts)
            index.parts = {key: parts for key, parts in index.parts.items() if key in used}


def _embed_batch(vectors: _Vectors, batch: Sequence[Chunk], embed: Embed) -> int:
    """Embed passages; one that is too long for the model is cut in two. How many were cut."""
    try:
        for chunk, vector in zip(batch, embed([chunk.text for chunk in batch]), strict=True):
            vectors.add(chunk.key, vector)
        return 0
    except SlipwayError as error:
        if error.code != "engine.context_overflow":
            raise
        if len(batch) > 1:
            return sum(_embed_batch(vectors, [chunk], embed) for chunk in batch)
        whole = batch[0]
        parts = halves(whole)
        if len(whole.text) <= _SHORTEST or len(parts) < 2:
            raise
        vectors.cut(whole.key, parts)
        return 1 + _embed_batch(vectors, parts, embed)


def search(index: Index, query: Sequence[float], top: int) -> list[Hit]:
    """The passages nearest to a vector, nearest first; every one is compared."""
    import numpy as np

    if index.matrix is None or not index.chunks:
        return []
    scores = index.matrix @ np.asarray(query, np.float32)
    places = np.array([index.vectors[chunk.key] for chunk in index.chunks])
    of_chunk = scores[places]
    order = np.argsort(-of_chunk, kind="stable")[:top]
    return [Hit(float(of_chunk[i]), index.chunks[i]) for i in order]
