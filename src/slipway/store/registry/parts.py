"""One blob, fetched in parallel parts that survive a kill.

Beside the blob's place lie `<blob>-partial` with the bytes and `<blob>-partial-N`, one for each
part, with how far it is: Ollama's own layout. Bytes are written before they are counted, so what
a killed process counted is there; the digest decides in the end.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from slipway.core.errors import InputError, ProofError, SlipwayError, from_os_error
from slipway.core.i18n import tr
from slipway.store.blobs import Blob, BlobStore
from slipway.store.registry.rules import TransferRules
from slipway.store.registry.transport import Registry, may_pass, unreachable

_TICK_S = 0.1
_NOTE_BYTES = 1 << 20


@dataclass
class _Part:
    number: int
    offset: int
    size: int
    done: int = 0

    def note(self, partial: Path) -> None:
        """Write down how far it is."""
        path = partial.with_name(f"{partial.name}-{self.number}")
        value = {"N": self.number, "Offset": self.offset, "Size": self.size, "Completed": self.done}
        temporary = path.with_name(path.name + ".new")
        temporary.write_text(json.dumps(value), encoding="utf-8")
        temporary.replace(path)


class PartedDownload:
    """Fetches one blob into a store.

    Args:
        registry: shared by the threads.
        blob: its digest and size, as the manifest states them.
    """

    def __init__(
        self, registry: Registry, store: BlobStore, blob: Blob, rules: TransferRules
    ) -> None:
        self._registry, self._store, self._blob, self._rules = registry, store, blob, rules
        final = store.path(blob.digest)
        self._partial = final.with_name(final.name + "-partial")
        self._stop = threading.Event()
        self._parts: list[_Part] = []

    def run(self) -> Iterator[int]:
        """Fetch it, telling the bytes there are; closing the iterator ends it, resumably.

        Raises:
            SlipwayError: the registry failed too often, or the file is not what it should be.
        """
        try:
            self._partial.parent.mkdir(parents=True, exist_ok=True)
            with self._partial.open("a+b") as handle:
                yield from self._wait_for_lock(handle.fileno())
                if self._store.has(self._blob):  # another process has fetched it meanwhile
                    self._clear()
                    yield self._blob.size
                    return
                self._parts = self._resume()
                os.truncate(handle.fileno(), self._blob.size)
                with self._partial.open("r+b") as target:
                    yield from self._fetch_all(target.fileno())
                    os.fsync(target.fileno())
        except OSError as error:
            raise from_os_error(error, self._partial) from error

    def adopt(self) -> None:
        """Check the digest and give the blob its name.

        Raises:
            ProofError: the bytes have another digest; they are thrown away.
        """
        if self._store.has(self._blob):
            return
        try:
            with self._partial.open("r+b") as handle:
                fcntl.flock(handle, fcntl.LOCK_EX)
                if self._store.has(self._blob):  # another pull of it was first
                    return
                found = self._store.take(self._partial, self._blob)
                self._clear()
        except OSError as error:
            if self._store.has(self._blob):
                return
            raise from_os_error(error, self._partial) from error
        if found != self._blob.digest:
            raise ProofError(
                "registry.wrong_digest",
                tr(
                    "digest mismatch, file must be downloaded again: want {want}, got {found}",
                    want=self._blob.digest,
                    found=found,
                ),
            )

    def _wait_for_lock(self, descriptor: int) -> Iterator[int]:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                yield sum(part.done for part in self._noted_parts())
                time.sleep(_TICK_S)

    def _resume(self) -> list[_Part]:
        """The parts as an earlier process left them, or new ones; only for who holds the lock."""
        if found := self._noted_parts():
            return found
        self._forget()
        divided = self._rules.divide(self._blob.size)
        parts = [_Part(number, at, size) for number, (at, size) in enumerate(divided)]
        for part in parts:  # all at once, so that a kill never leaves half a division
            part.note(self._partial)
        return parts

    def _noted_parts(self) -> list[_Part]:
        """What the notes say; nothing when they are not a division of the whole blob."""
        found = []
        try:
            for path in self._partial.parent.glob(self._partial.name + "-*"):
                if path.suffix != ".new":
                    raw = json.loads(path.read_text(encoding="utf-8"))
                    part = _Part(raw["N"], raw["Offset"], raw["Size"], raw["Completed"])
                    found.append(part)
            found.sort(key=lambda part: part.offset)
            at = 0
            for part in found:
                if part.offset != at or not 0 <= part.done <= part.size:
                    raise ValueError("not a division of the file")
                at += part.size
            if found and at == self._blob.size:
                return found
        except (OSError, ValueError, KeyError, TypeError):
            pass  # a damaged note costs a new download of this blob
        return []

    def _fetch_all(self, descriptor: int) -> Iterator[int]:
        with ThreadPoolExecutor(max_workers=self._rules.parts) as pool:
            futures = {
                pool.submit(self._fetch, part, descriptor)
                for part in self._parts
                if part.done < part.size
            }
            try:
                waiting: set[Future[None]] = futures
                while waiting:
                    done, waiting = wait(waiting, _TICK_S, FIRST_EXCEPTION)
                    for future in done:
                        future.result()
                    yield sum(part.done for part in self._parts)
            finally:
                self._stop.set()

    def _fetch(self, part: _Part, descriptor: int) -> None:
        tries = 0
        while part.done < part.size and not self._stop.is_set():
            before = part.done
            try:
                with self._noted(part):
                    self._stream(part, descriptor)
            except SlipwayError as error:
                tries = 1 if part.done > before else tries + 1
                if not may_pass(error) or tries >= self._rules.tries:
                    raise
                pause = self._rules.pause_s * 2 ** (tries - 1)
                self._stop.wait(max(pause, getattr(error, "retry_after_s", 0.0)))

    @contextmanager
    def _noted(self, part: _Part) -> Iterator[None]:
        try:
            yield
        finally:
            part.note(self._partial)

    def _stream(self, part: _Part, descriptor: int) -> None:
        first, last = part.offset + part.done, part.offset + part.size - 1
        headers = {"Range": f"bytes={first}-{last}", "Accept-Encoding": "identity"}
        noted = part.done
        with self._registry.open("GET", f"blobs/{self._blob.digest}", headers=headers) as answer:
            # A server that knows no ranges sends all; what we have is passed over.
            skip = first if answer.status_code == 200 else 0
            if skip == 0 and first and not _begins_at(answer, first):
                raise InputError("registry.bad_range", tr("the registry sent another range"))
            for piece in answer.iter_raw():
                if self._stop.is_set():
                    return
                kept = piece[skip:]
                skip = max(0, skip - len(piece))
                kept = kept[: part.size - part.done]
                os.pwrite(descriptor, kept, part.offset + part.done)
                part.done += len(kept)
                if part.done - noted >= _NOTE_BYTES:
                    part.note(self._partial)
                    noted = part.done
                if part.done == part.size:
                    return
        if part.done < part.size:
            raise unreachable(self._registry.name.host, EOFError("the answer broke off"))

    def _clear(self) -> None:
        self._partial.unlink(missing_ok=True)
        self._forget()

    def _forget(self) -> None:
        for path in self._partial.parent.glob(self._partial.name + "-*"):
            path.unlink(missing_ok=True)


def _begins_at(answer: httpx.Response, first: int) -> bool:
    return str(answer.headers.get("content-range", "")).startswith(f"bytes {first}-")
