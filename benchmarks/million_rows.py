"""A million-row dataset: check it, make it ready to train, and again out of the cache.

Makes a jsonl file of conversations (about 100 tokens of text each, from a seed) and runs, each in
a process of its own: `slipway data check`; the first start (read, render, tokenise, store); the
second start (from the cache). A start ends when the order of an epoch is drawn and the first
batch is read. Memory is the peak of the process, the interpreter and all libraries included. The
libraries (torch, transformers) are loaded first in each process; the table has their time apart,
because every training pays it, with or without data.

The peer is what fine-tuning tools commonly do: `datasets.map` with a function that tokenises turn
by turn in batches of 1000, two processes, and its own cache; in an environment of its own.

    python benchmarks/million_rows.py [--rows N] [--model FOLDER] [--no-peer] [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

GOAL_RSS_GIB, GOAL_SECOND_S = 1.5, 5.0
CUTOFF = 1024
BATCH = 64
TEXT = (
    "the order parcel refund where is my account please can you help with this problem today we "
    "will send it back thank you for waiting invoice number address delivery late broken screen "
    "warranty 退货 订单 快递 发票 customer service replied quickly battery does not charge anymore"
)


def conversations(rows: int) -> Iterator[str]:
    draw, words = random.Random(7), TEXT.split()
    for number in range(rows):
        question = " ".join(draw.choices(words, k=draw.randint(8, 32)))
        answer = " ".join(draw.choices(words, k=draw.randint(24, 72)))
        turns = [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
        yield json.dumps({"id": f"r{number}", "messages": turns}, ensure_ascii=False) + "\n"


def start(file: Path, model: Path, cache: Path) -> dict[str, Any]:
    """From the command to the first batch, with the token cache at `cache`."""
    from slipway.datasets import EncodeRule, encode_stream, load_tokenizer, open_samples
    from slipway.datasets.source import DataSource

    stream = open_samples([DataSource(path=str(file))])
    tokens = encode_stream(
        stream, load_tokenizer(model), EncodeRule(CUTOFF), cache=cache, digest=stream.digest
    )
    order = list(range(len(tokens)))
    random.Random(0).shuffle(order)
    first = [tokens[number] for number in order[:BATCH]]
    return {"rows": len(tokens), "tokens": int(tokens.lengths.sum()), "batch": len(first)}


def peer(file: Path, model: Path, cache: Path) -> dict[str, Any]:
    """The same rows by `datasets.map`, turn by turn, without padding."""
    from transformers import AutoTokenizer

    import datasets

    datasets.disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(str(model), local_files_only=True)

    def encode(batch: dict[str, Any]) -> dict[str, Any]:
        out: dict[str, list[list[int]]] = {"input_ids": [], "labels": []}
        for turns in batch["messages"]:
            ids: list[int] = []
            labels: list[int] = []
            for turn in turns:
                head = f"<|im_start|>{turn['role']}\n"
                text = turn["content"] + "<|im_end|>\n"
                if turn["role"] == "user":
                    part = tokenizer(head + text, add_special_tokens=False)["input_ids"]
                    ids += part
                    labels += [-100] * len(part)
                else:
                    part = tokenizer(head, add_special_tokens=False)["input_ids"]
                    answer = tokenizer(text, add_special_tokens=False)["input_ids"]
                    ids += part + answer
                    labels += [-100] * len(part) + answer
            out["input_ids"].append(ids[:CUTOFF])
            out["labels"].append(labels[:CUTOFF])
        return out

    rows = datasets.load_dataset("json", data_files=str(file), split="train", cache_dir=str(cache))
    done = rows.map(
        encode, batched=True, batch_size=1000, num_proc=2, remove_columns=rows.column_names
    )
    order = list(range(len(done)))
    random.Random(0).shuffle(order)
    first = [done[number] for number in order[:BATCH]]
    return {"rows": len(done), "batch": len(first)}


def load_libraries() -> float:
    """Seconds to import what a training needs in any case."""
    began = time.perf_counter()
    from transformers import AutoConfig, AutoTokenizer

    assert AutoConfig and AutoTokenizer
    return time.perf_counter() - began


STAGES: dict[str, Callable[[Path, Path, Path], dict[str, Any]]] = {"start": start, "peer": peer}


def peak_gib() -> float:
    """Peak memory of this process and of the largest of its children, GiB."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(resource.getrusage(kind).ru_maxrss for kind in kinds) / 2**20


def run_stage(python: str, stage: str, *paths: Path) -> dict[str, Any]:
    """A stage in a process of its own: its result, seconds and GiB."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
    began = time.perf_counter()
    command = [python, __file__, "--stage", stage, *map(str, paths)]
    done = subprocess.run(command, stdout=subprocess.PIPE, env=environment, text=True)
    if done.returncode:
        raise SystemExit(f"stage {stage} failed")
    result = json.loads(done.stdout.splitlines()[-1])
    return {**result, "seconds": time.perf_counter() - began - result["libraries_s"]}


def run_check(file: Path) -> dict[str, Any]:
    """`slipway data check` on the file; its memory is that of its process and its workers."""
    command = [sys.executable, "-m", "slipway.cli", "data", "check", str(file), "--json"]
    began, cpu = time.perf_counter(), cpu_of_children()
    with tempfile.TemporaryFile() as out:
        checking = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL)
        peak = watch(checking)
        seconds = time.perf_counter() - began
        out.seek(0)
        report = json.load(out)
    return {
        "exit_code": checking.returncode,
        "gib": peak / 2**30,
        "seconds": seconds,
        "cpu_s": cpu_of_children() - cpu,
        "rows": sum(report["rows"].values()),
        "near_duplicates": report["near_duplicate_count"],
        "same": report["error_codes"].get("duplicate_row", 0),
        "mean_quality": report["splits"]["train"]["quality"]["mean"],
    }


def cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def watch(process: subprocess.Popen[bytes]) -> int:
    """Peak bytes of a process and its children together (shared pages counted once)."""
    import psutil

    peak, known = 0, psutil.Process(process.pid)
    while process.poll() is None:
        total = 0
        for one in (known, *children_of(known)):
            with contextlib.suppress(psutil.Error):
                total += one.memory_full_info().pss
        peak = max(peak, total)
        time.sleep(2)  # to look costs time itself
    return peak


def children_of(process: Any) -> list[Any]:
    import psutil

    try:
        return list(process.children(recursive=True))
    except psutil.Error:
        return []


def peer_python(folder: Path) -> str | None:
    """An environment with `datasets` that sees this one's packages; None if it cannot be had."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    places = [path for path in sys.path if path.endswith("site-packages")]
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "benchmark-env.pth").write_text("\n".join(places) + "\n", encoding="utf-8")
    command = [str(python), "-m", "pip", "install", "-q", "datasets"]
    installed = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return str(python) if installed.returncode == 0 else None


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, dict[str, Any]]:
    file, model = folder / "rows.jsonl", arguments.model
    with file.open("w", encoding="utf-8") as out:
        out.writelines(conversations(arguments.rows))
    print(f"{arguments.rows:,} rows, {file.stat().st_size / 2**20:,.0f} MiB", flush=True)
    print(
        f"{'stage':<14}{'seconds':>9}{'rows/s':>10}{'peak GiB':>10}{'libraries s':>13}", flush=True
    )
    found: dict[str, dict[str, Any]] = {}

    def keep(name: str, row: dict[str, Any]) -> None:
        found[name] = row
        speed = arguments.rows / row["seconds"]
        libraries = f"{row['libraries_s']:>13.1f}" if "libraries_s" in row else ""
        line = f"{name:<14}{row['seconds']:>9.1f}{speed:>10,.0f}{row['gib']:>10.2f}{libraries}"
        print(line, flush=True)

    if arguments.check:
        keep("check", run_check(file))
    for name in ("first start", "second start") if arguments.starts else ():
        keep(name, run_stage(sys.executable, "start", file, model, folder / "tokens"))
    wanted = arguments.peer and arguments.starts
    python = peer_python(arguments.peer_env) if wanted else None
    if wanted and python is None:
        print("peer: `datasets` cannot be installed here, so there is no comparison")
    if python:
        for name in ("peer, first", "peer, second"):
            keep(name, run_stage(python, "peer", file, model, folder / "peer"))
    return found


def report(found: dict[str, dict[str, Any]], rows: int) -> dict[str, float]:
    values: dict[str, float] = {"rows": rows}
    ours = [row for name, row in found.items() if not name.startswith("peer")]
    peak = max((row["gib"] for row in ours), default=0.0)
    values["peak_gib"] = round(peak, 3)
    values["ratio_peak_rss"] = round(peak / GOAL_RSS_GIB, 3)
    print(f"peak {peak:.2f} GiB, goal {GOAL_RSS_GIB}: ratio {values['ratio_peak_rss']}")
    if "check" in found:
        check = found["check"]
        values["check_s"] = round(check["seconds"], 1)
        values["check_cpu_s"] = round(check["cpu_s"], 1)
        values["check_gib"] = round(check["gib"], 3)
        print(f"check: {check['cpu_s']:.0f} s of processor time")
        print(f"check: {check['near_duplicates']} pairs nearly the same, {check['same']} the same")
    if "second start" in found:
        second = found["second start"]["seconds"]
        values["first_start_s"] = round(found["first start"]["seconds"], 1)
        values["second_start_s"] = round(second, 2)
        values["ratio_second_start_s"] = round(second / GOAL_SECOND_S, 3)
        print(
            f"second start {second:.1f} s, goal {GOAL_SECOND_S}: {values['ratio_second_start_s']}"
        )
        values |= against_peer(found)
    return values


def against_peer(found: dict[str, dict[str, Any]]) -> dict[str, float]:
    if "peer, first" not in found:
        return {}
    ratios = {
        f"ratio_{name.replace(' ', '_')}_to_peer": round(
            found[name]["seconds"] / found[f"peer, {name.split()[0]}"]["seconds"], 3
        )
        for name in ("first start", "second start")
    }
    print(f"against the peer, of its time: {ratios}")
    return ratios


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--model", type=Path, help="folder of a model; default: the starter")
    parser.add_argument("--no-peer", dest="peer", action="store_false")
    parser.add_argument("--no-check", dest="check", action="store_false")
    parser.add_argument("--no-starts", dest="starts", action="store_false")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--stage", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage:
        stage, *paths = arguments.stage
        libraries = load_libraries()
        result = STAGES[stage](*map(Path, paths))
        print(json.dumps({**result, "gib": peak_gib(), "libraries_s": libraries}))
        return 0
    from slipway.core.paths import Home

    home = Home.current()
    arguments.model = arguments.model or home.bases / "starter"
    arguments.peer_env = home.cache / "benchmarks" / "datasets"
    if arguments.starts and not arguments.model.is_dir():
        raise SystemExit("get a model first: slipway pull starter")
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        values = report(measure(arguments, Path(folder)), arguments.rows)
    if arguments.json:
        arguments.json.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
