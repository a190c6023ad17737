from __future__ import annotations

import hashlib
import json
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.api.conftest import RunningDaemon
from tests.cli.daemon.conftest import RealDaemon
from tests.shared_home import shared_home

from slipway.cli.main import main
from slipway.cli.vectors.chunks import chunks_of, estimate, halves, read_chunks
from slipway.cli.vectors.index import Index, load, save, search, update
from slipway.core.errors import EXIT_FAILED, EXIT_NOT_FOUND, EXIT_USAGE, UsageError
from slipway.core.paths import Home
from slipway.store import create_model

Capture = pytest.CaptureFixture[str]


class Model:
    """Embeds a text as a unit vector that depends on nothing else, and notes what it was asked."""

    def __init__(self, most_words: int = 1000, dies_after: int | None = None) -> None:
        self.asked: list[str] = []
        self.most_words = most_words
        self.dies_after = dies_after

    def __call__(self, texts: Sequence[str]) -> list[list[float]]:
        if any(len(text.split()) > self.most_words for text in texts):
            raise UsageError("engine.context_overflow", "too long")
        if self.dies_after is not None and len(self.asked) >= self.dies_after:
            raise KeyboardInterrupt
        self.asked += texts
        return [self.vector(text) for text in texts]

    @staticmethod
    def vector(text: str) -> list[float]:
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])
        values = np.random.default_rng(seed).normal(size=16)
        return list(values / np.linalg.norm(values))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.md").write_text("# Refunds\n\nA refund takes three days.\n")
    (folder / "deep" / "b.txt").write_text("第一段。\n第二段。\n", "utf-8")
    return folder


def slow_search(index: Index, query: list[float], top: int) -> list[str]:
    """The obvious way."""
    assert index.matrix is not None
    scored = [
        (-sum(a * b for a, b in zip(index.matrix[index.vectors[c.key]], query, strict=True)), n)
        for n, c in enumerate(index.chunks)
    ]
    return [index.chunks[n].text for _, n in sorted(scored)[:top]]


class TestChunks:
    @given(st.text(alphabet="ab 。.\n中文!", max_size=600), st.integers(16, 60))
    def test_nothing_is_lost_and_no_passage_is_too_long(self, text: str, most: int) -> None:
        made = list(chunks_of("f", text, most))
        assert "".join("".join(c.text for c in made).split()) == "".join(text.split())
        lines = text.splitlines()
        for c in made:
            assert estimate(c.text.replace("\n", "")) <= most + 1
            assert c.text.split("\n")[0].strip() in lines[c.first_line - 1]
            assert c.first_line <= c.last_line <= len(lines)

    def test_paragraphs_stay_together(self) -> None:
        text = "\n\n".join(f"paragraph {n} " + "word " * 30 for n in range(4))
        assert [c.text.split()[1] for c in chunks_of("f", text, 60)] == ["0", "1", "2", "3"]
        assert [(c.first_line, c.last_line) for c in chunks_of("f", text, 60)][1] == (3, 3)

    def test_halves_keep_the_text_and_cut_at_sentences(self) -> None:
        whole = next(chunks_of("f", "One is here. Two is here. Three is here.", 100))
        assert [part.text for part in halves(whole)] == [
            "One is here.",
            "Two is here. Three is here.",
        ]
        word = next(chunks_of("f", "x" * 100, 100))
        assert [len(part.text) for part in halves(word)] == [50, 50]

    def test_hidden_binary_and_linked_files_are_not_texts(self, folder: Path) -> None:
        (folder / ".git").mkdir()
        (folder / ".git" / "x.txt").write_text("hidden")
        (folder / "zero.bin").write_bytes(b"a\0b")
        (folder / "gbk.txt").write_bytes("退货".encode("gb18030"))
        (folder / "link.md").symlink_to("/etc/hostname")
        chunks, skipped = read_chunks(folder, (), 100)
        assert sorted({c.path for c in chunks}) == ["a.md", "deep/b.txt"]
        assert [(s.path, s.reason) for s in skipped] == [
            ("gbk.txt", "not_text"),
            ("zero.bin", "not_text"),
        ]
        assert {c.path for c in read_chunks(folder, ["*.md"], 100)[0]} == {"a.md"}
        assert {c.path for c in read_chunks(folder, ["deep/*"], 100)[0]} == {"deep/b.txt"}


class TestIndex:
    def test_only_what_changed_is_embedded_again(self, folder: Path, tmp_path: Path) -> None:
        path, model = tmp_path / "i.npz", Model()
        texts = {f"f{n}": f"text {n}" for n in range(100)}

        def run() -> Any:
            index, _ = load(path, {"model": "m"})
            chunks = [c for name, text in texts.items() for c in chunks_of(name, text, 50)]
            report = update(index, chunks, model)
            save(path, index)
            return index, report

        _, report = run()
        assert (report.files, report.chunks, report.embedded, report.reused) == (100, 100, 100, 0)
        model.asked.clear()
        texts |= {"f7": "changed", "moved": texts.pop("f8"), "copy": "text 9"}
        del texts["f10"]
        index, report = run()
        assert model.asked == ["changed"] and report.removed_files == ["f10", "f8"]
        assert report.embedded == 1 and report.reused == report.chunks - 1 == 99
        assert index.matrix is not None and len(index.matrix) == 99  # text 9 stands twice
        query = Model.vector("text 42")
        found = search(index, query, 5)
        assert found[0].chunk.path == "f42" and found[0].score == pytest.approx(1)
        assert [hit.chunk.text for hit in found] == slow_search(index, query, 5)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def test_an_interrupted_run_keeps_what_was_done(self, tmp_path: Path) -> None:
        path = tmp_path / "i.npz"
        chunks = [c for n in range(100) for c in chunks_of(f"f{n}", f"text {n}", 50)]
        index, _ = load(path, {})
        with pytest.raises(KeyboardInterrupt):
            update(index, chunks, Model(dies_after=64), checkpoint=lambda: save(path, index))
        index, _ = load(path, {})
        model = Model()
        update(index, chunks, model)
        assert len(model.asked) == 36 and len(index.chunks) == 100

    def test_a_passage_that_is_too_long_is_cut_until_it_fits(self, tmp_path: Path) -> None:
        path, model = tmp_path / "i.npz", Model(most_words=5)
        text = " ".join(f"w{n}" for n in range(23))
        chunks = [*chunks_of("long", text, 500), *chunks_of("short", "fits", 500)]
        index, _ = load(path, {})
        report = update(index, chunks, model)
        assert " ".join(c.text for c in index.chunks if c.path == "long") == text
        assert report.split >= 3 and all(len(c.text.split()) <= 5 for c in index.chunks)
        save(path, index)
        index, _ = load(path, {})
        model.asked.clear()
        assert update(index, chunks, model).embedded == 0 and model.asked == []
        assert " ".join(c.text for c in index.chunks if c.path == "long") == text

    def test_another_model_or_a_damaged_file_begins_anew_and_says_so(self, tmp_path: Path) -> None:
        path, index = tmp_path / "i.npz", Index({"model": "one"})
        update(index, list(chunks_of("f", "text", 50)), Model())
        save(path, index)
        assert load(path, {"model": "one"})[0].chunks == index.chunks
        assert load(path, {"model": "two"}) == (Index({"model": "two"}), "other")
        data = path.read_bytes()
        for damaged in (b"", b"no zip", b"PK\x03\x04", data[: len(data) // 2]):
            path.write_bytes(damaged)
            assert load(path, {"model": "one"}) == (Index({"model": "one"}), "damaged")

    def test_an_empty_folder_has_an_empty_index(self, tmp_path: Path) -> None:
        index = Index({})
        assert update(index, [], Model()).chunks == 0
        save(tmp_path / "i.npz", index)
        assert search(load(tmp_path / "i.npz", {})[0], [1.0], 3) == []


class TestCommand:
    def test_texts_become_lines_of_numbers(
        self, here: RunningDaemon, embedder: str, tmp_path: Path, capsys: Capture
    ) -> None:
        assert main(["embed", "one", "two"]) == 0
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [len(line) for line in lines] == [8, 8] and lines[0] != lines[1]
        (tmp_path / "t.txt").write_text("one\n\ntwo\n")
        assert main(["embed", "--file", str(tmp_path / "t.txt"), "-q", "two", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["embeddings"][0] == pytest.approx(lines[0], abs=1e-6)
        assert found["hits"][0]["text"] == "two" and found["hits"][0]["score"] == pytest.approx(1)

    def test_thousands_of_lines_and_one_that_is_too_long(
        self, here: RunningDaemon, embedder: str, tmp_path: Path, capsys: Capture
    ) -> None:
        lines = [f"line {n}" for n in range(2100)]
        (tmp_path / "t.txt").write_text("\n".join(lines))
        ask = ["embed", "--file", str(tmp_path / "t.txt"), "--json"]
        assert main(ask) == 0
        assert len(json.loads(capsys.readouterr().out)["embeddings"]) == 2100
        lines[69] = "word " * 30
        (tmp_path / "t.txt").write_text("\n".join(lines))
        assert main(ask) == EXIT_USAGE
        assert "text 70:" in capsys.readouterr().err

    def test_a_folder_is_searched_and_the_second_run_embeds_nothing(
        self, here: RunningDaemon, embedder: str, folder: Path, home: Home, capsys: Capture
    ) -> None:
        ask = ["embed", "--folder", str(folder), "-q", "第一段。\n第二段。", "--json"]
        assert main(ask) == 0
        first = json.loads(capsys.readouterr().out)
        assert (first["files"], first["embedded"], first["reused"]) == (2, 2, 0)
        hit = first["hits"][0]
        assert (hit["path"], hit["first_line"], hit["last_line"]) == ("deep/b.txt", 1, 2)
        assert Path(first["index"]).parent == home.root / "embeddings"
        assert main(ask) == 0
        assert json.loads(capsys.readouterr().out)["embedded"] == 0
        (folder / "a.md").unlink()
        assert main(["embed", "--folder", str(folder), "-q", "x"]) == 0
        said = capsys.readouterr()
        assert "no longer there: a.md" in said.err and "deep/b.txt:1-2" in said.out

    def test_a_model_made_anew_under_the_same_name_has_other_vectors(
        self, here: RunningDaemon, embedder: str, folder: Path, home: Home, capsys: Capture
    ) -> None:
        ask = ["embed", "--folder", str(folder)]
        assert main(ask) == 0
        create_model(embedder, f"FROM {embedder}\nPARAMETER num_ctx 15", home=home)
        capsys.readouterr()
        assert main(ask) == 0
        assert "made anew" in capsys.readouterr().err

    def test_wrong_use_is_told(
        self, here: RunningDaemon, shop: str, tmp_path: Path, home: Home, capsys: Capture
    ) -> None:
        assert main(["embed", "x"]) == EXIT_NOT_FOUND  # there is a chat model only
        assert "slipway pull starter-embed" in capsys.readouterr().err
        assert main(["embed", "x", "-m", shop]) == EXIT_USAGE
        assert main(["embed"]) == EXIT_USAGE
        assert main(["embed", "x", "--folder", str(tmp_path)]) == EXIT_USAGE
        assert main(["embed", "x", "-m", "nothing"]) == EXIT_NOT_FOUND

    def test_a_file_of_somebody_elses_is_not_overwritten(
        self, here: RunningDaemon, embedder: str, folder: Path, tmp_path: Path, capsys: Capture
    ) -> None:
        (tmp_path / "mine.npz").write_text("precious")
        ask = ["embed", "--folder", str(folder), "--index"]
        assert main([*ask, str(tmp_path / "mine.npz")]) == EXIT_FAILED
        assert (tmp_path / "mine.npz").read_text() == "precious"
        assert main([*ask, str(tmp_path / "new.npz")]) == 0
        assert main([*ask, str(tmp_path / "new.npz")]) == 0
        assert "2 known before" in capsys.readouterr().err

    def test_one_of_several_models_must_be_named(
        self, here: RunningDaemon, embedder: str, home: Home, tmp_path: Path, capsys: Capture
    ) -> None:
        create_model("other", f"FROM {embedder}", home=home)
        assert main(["embed", "x"]) == EXIT_USAGE
        assert "-m " in capsys.readouterr().err
        assert main(["embed", "x", "-m", "OTHER:latest"]) == 0
        assert main(["embed", "-m", "other", "--folder", str(tmp_path / "no")]) == EXIT_NOT_FOUND

    def test_two_runs_at_once_do_not_harm_each_other(
        self, here: RunningDaemon, embedder: str, folder: Path
    ) -> None:
        for n in range(80):
            (folder / f"f{n}.txt").write_text(f"text {n}")
        command = [sys.executable, "-m", "slipway.cli", "embed", "--folder", str(folder), "--json"]
        running = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
        found = [json.loads(process.communicate(timeout=60)[0]) for process in running]
        assert sorted(report["embedded"] for report in found) == [0, 82]


@pytest.mark.slow
def test_a_real_model_finds_what_is_meant_and_not_what_is_spelt_alike(
    real: RealDaemon, tmp_path: Path, capsys: Capture
) -> None:
    from slipway.export import convert_to_gguf
    from slipway.store.pull import pull_base

    base = pull_base("starter-embed", home=shared_home())
    convert_to_gguf(base, tmp_path / "gguf", home=shared_home())
    create_model("minilm", f"FROM {tmp_path / 'gguf'}", home=real.home)
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "refunds.txt").write_text("We give the money back within three days.")
    (texts / "parcels.txt").write_text("Parcels are sent from Hamburg by rail.")
    (texts / "funds.txt").write_text("The fund invests in refineries.")
    (texts / "long.txt").write_text("word " * 3000)
    ask = ["embed", "-m", "minilm", "--folder", str(texts), "--chunk-tokens", "2000", "--json"]
    assert main([*ask, "-q", "How do I get a refund?", "-q", "delivery by train"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [hit["path"] for hit in found["hits"]][::5] == ["refunds.txt", "parcels.txt"]
    assert found["split"] >= 1 and found["embedded"] == found["chunks"]
