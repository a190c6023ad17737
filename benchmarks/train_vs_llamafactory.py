"""Fine-tuning here and with LLaMA Factory 0.9.5: speed, memory, and the loss that comes of it.

    python benchmarks/train_vs_llamafactory.py [--peer-env DIR] [--method lora|full]
        [--rounds N] [--steps N] [--threads N] [--pack-tokens N] [--plain-peer] [--json FILE]

Both get the same base (the starter), the same conversations in the same order, eight in each step,
the same adapter size, seed, rates and number format, and the same torch, on the CPU. LLaMA Factory
encodes the conversations itself once; its tokens must be ours, and its labels ours but for the
line break after each answer, which it learns and we do not. Then it trains from the rows as we
encode them (its `tokenized_path`), so that both learn exactly the same tokens.

Each training is a process of its own and they take turns, watched from outside by the same eyes:
both add a line to a log at each step, and between the lines of the first and of the last step lie
the seconds and the processor's seconds of the steps from the second on. "tokens/s" are tokens of
conversations, without padding, over these seconds; "tokens/CPU s" over the processor's, which other
programs on the machine hardly change (with `--threads 1` least); "whole" are all tokens over the
seconds of the process, with libraries, loading, and our own checks and estimates. Memory is the
most that the process ever held. The eval loss of both is computed by the same code.

`--pack-tokens N` adds ours with so many tokens computed at once, which needs less memory. LLaMA
Factory recomputes activations by default (gradient checkpointing); `--plain-peer` adds it without,
its fastest way. Where the processor has no bf16 products it gets the base in fp32: with the base as
it is, it computes in bf16 there, several times slower still.

The goal, set for CPU cores with AMX: 3 times the tokens/s, 0.6 of the memory, the same loss.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import psutil
import yaml

from llamafactory_env import VERSION, check, make
from slipway.core.paths import Home
from slipway.store.pull import STARTER, pull_base

ROOT = Path(__file__).parents[1]
BATCH, CUTOFF, SEED, RANK = 8, 1024, 0, 8
RATES = {"lora": 1e-3, "full": 2e-5}
GOALS = {"tokens_per_s": 3.0, "peak_rss": 0.6}
_ENCODE = """
import json, sys
from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
from llamafactory.hparams import get_train_args
from llamafactory.model import load_tokenizer
model, data, training, _, _ = get_train_args(json.load(open(sys.argv[1])))
tools = load_tokenizer(model)
template = get_template_and_fix_tokenizer(tools["tokenizer"], data)
rows = get_dataset(template, model, data, training, stage="sft", **tools)["train_dataset"]
with open(sys.argv[2], "w") as file:
    json.dump([[row["input_ids"], row["labels"]] for row in rows], file)
"""
_STORE = """
import json, sys
from datasets import Dataset, DatasetDict
rows = json.load(open(sys.argv[1]))
columns = {"input_ids": [r[0] for r in rows], "attention_mask": [[1] * len(r[0]) for r in rows],
           "labels": [r[1] for r in rows]}
columns |= {name: [None] * len(rows) for name in ("images", "videos", "audios")}
DatasetDict({"train": Dataset.from_dict(columns)}).save_to_disk(sys.argv[2])
"""
_IN_FP32 = """
import json, sys
from pathlib import Path
from safetensors.torch import load_file, save_file
folder = Path(sys.argv[1])
for path in folder.glob("*.safetensors"):
    save_file({k: v.float() for k, v in load_file(path).items()}, path, metadata={"format": "pt"})
config = json.loads((folder / "config.json").read_text())
config["dtype"] = "float32"
(folder / "config.json").write_text(json.dumps(config))
"""
_LOSS = """
import sys
from pathlib import Path
from slipway.datasets import encode_all, load_dataset, load_tokenizer
from slipway.training import lora
from slipway.training.evaluate import rows_loss
from slipway.training.model import load_base, pick_device, pick_dtype, set_threads
base, data, result, method = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
set_threads(None)
device = pick_device()
rows = encode_all(load_dataset(data, "heldout"), load_tokenizer(base), int(sys.argv[5])).rows
model = load_base(result if method == "full" else base, pick_dtype("auto", device), device)
if method == "lora":
    lora.load_adapter(model, result)
print(rows_loss(model.eval(), rows).loss)
"""
_SLIPWAY = "from slipway.cli.main import entry; entry()"


@dataclass
class Side:
    """One program and what its rounds gave.

    Attributes:
        pack_tokens: tokens that ours computes at once; None: the recipe's default.
    """

    name: str
    pack_tokens: int | None = None
    tokens_per_s: list[float] = field(default_factory=list)
    tokens_per_cpu_s: list[float] = field(default_factory=list)
    whole_tokens_per_s: list[float] = field(default_factory=list)
    peak_rss_bytes: list[int] = field(default_factory=list)
    eval_loss: list[float] = field(default_factory=list)

    def median(self, what: str) -> float:
        return float(statistics.median(getattr(self, what)))


@dataclass(frozen=True)
class Setting:
    """What both sides share.

    Attributes:
        rows: (token ids, labels) in the order of training, `BATCH` for each step.
        dtype: the number format of the base.
        threads: of both programs; None: as each chooses.
    """

    base: Path
    data: Path
    work: Path
    peer: Path
    method: str
    steps: int
    rows: list[tuple[list[int], list[int]]]
    dtype: str
    threads: int | None

    @property
    def tokens(self) -> int:
        return sum(len(ids) for ids, _ in self.rows)


def environment(**more: str) -> dict[str, str]:
    found = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", **more}
    found["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), found.get("PYTHONPATH", "")])
    return found


@dataclass
class Watched:
    """A program that ran: seconds and processor's seconds of it, peak bytes, and of each step."""

    seconds: float
    peak: int
    steps: list[tuple[float, float]]


def watched(
    command: list[str], log: Path, told: Path, mark: str, env: Mapping[str, str]
) -> Watched:
    """Run a program that adds a line with `mark` to the file `told` at the end of each step."""
    start = time.perf_counter()
    steps: list[tuple[float, float]] = []
    with log.open("wb") as out:
        child = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=dict(env))
    process = psutil.Process(child.pid)
    while True:
        pid, status, usage = os.wait4(child.pid, os.WNOHANG)
        if pid:
            break
        done = told.read_text().count(mark) if told.is_file() else 0
        if done > len(steps):
            used = process.cpu_times()
            steps += [(time.perf_counter(), used.user + used.system)] * (done - len(steps))
        time.sleep(0.02)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{' '.join(command)}\n{log.read_text(errors='replace')[-3000:]}")
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Watched(time.perf_counter() - start, peak, steps)


def script(python: str | Path, text: str, *arguments: str | Path, peer: bool = False) -> str:
    env = environment()
    if peer:
        del env["PYTHONPATH"]
    command = [str(python), "-c", text, *(str(a) for a in arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return done.stdout


def recipe(setting: Setting, pack_tokens: int | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "model": str(setting.base),
        "data": str(setting.work / "data"),
        "method": setting.method,
        "cutoff_len": CUTOFF,
        "batch_rows": BATCH,
        "max_steps": setting.steps,
        "epochs": 1000,
        "learning_rate": RATES[setting.method],
        "schedule": "cosine",
        "warmup_ratio": 0.0,
        "seed": SEED,
        "save_every_s": 1e6,
        "threads": setting.threads,
    }
    if setting.method == "lora":
        found["lora"] = {"rank": RANK, "alpha": 2 * RANK, "target": "all"}
    if pack_tokens:
        found["pack_tokens"] = pack_tokens
    return found


def peer_keys(setting: Setting) -> dict[str, Any]:
    return {
        "model_name_or_path": str(setting.work / "peer-base"),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": setting.method,
        "lora_rank": RANK,
        "lora_alpha": 2 * RANK,
        "lora_target": "all",
        "dataset_dir": str(setting.work / "peer-data"),
        "dataset": "rows",
        "template": "smollm2",
        "cutoff_len": CUTOFF,
        "tokenized_path": str(setting.work / "peer-rows"),
        "disable_shuffling": True,
        "per_device_train_batch_size": BATCH,
        "gradient_accumulation_steps": 1,
        "max_steps": setting.steps,
        "learning_rate": RATES[setting.method],
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "seed": SEED,
        "use_cpu": True,
        "bf16": setting.dtype == "bf16",
    }


def prepare(setting_of: Mapping[str, Any], samples: list[Any]) -> Setting:
    """Write the data of both sides, and check that they encode it alike."""
    from slipway.datasets import encode_all, load_tokenizer
    from slipway.training.plan import step_rows

    setting = Setting(**setting_of, rows=[])
    encoded = encode_all(samples, load_tokenizer(setting.base), CUTOFF).rows
    order = step_rows([len(row.input_ids) for row in encoded], 1, SEED, BATCH)
    numbers = [n for _, rows in islice(order, setting.steps) for n in rows]
    rows = [(list(encoded[n].input_ids), list(encoded[n].labels)) for n in numbers]
    setting = Setting(**setting_of, rows=rows)
    work = setting.work
    texts = [
        {"messages": [{"role": m.role, "content": m.content} for m in s.messages]} for s in samples
    ]
    (work / "data").mkdir()
    (work / "data" / "train.jsonl").write_text("".join(json.dumps(t) + "\n" for t in texts))
    (work / "peer-data").mkdir()
    ordered = "".join(json.dumps(texts[n]) + "\n" for n in numbers)
    (work / "peer-data" / "rows.jsonl").write_text(ordered)
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user"}
    tags |= {"assistant_tag": "assistant", "system_tag": "system"}
    info = {"file_name": "rows.jsonl", "formatting": "sharegpt", "tags": tags}
    info["columns"] = {"messages": "messages"}
    (work / "peer-data" / "dataset_info.json").write_text(json.dumps({"rows": info}))
    shutil.copytree(setting.base, work / "peer-base")
    if setting.dtype == "fp32":
        script(sys.executable, _IN_FP32, work / "peer-base")
    compare_rows(setting)
    return setting


def compare_rows(setting: Setting) -> None:
    """Let LLaMA Factory encode the rows, hold them against ours, and store ours for it.

    Raises:
        SystemExit: a row has other tokens, or other labels than the known line break.
    """
    work = setting.work
    keys = {**peer_keys(setting), "output_dir": str(work / "encode")}
    del keys["tokenized_path"]
    (work / "keys.json").write_text(json.dumps(keys))
    script(setting.peer, _ENCODE, work / "keys.json", work / "theirs.json", peer=True)
    theirs = json.loads((work / "theirs.json").read_text())
    more = 0
    for (ids, labels), (peer_ids, peer_labels) in zip(setting.rows, theirs, strict=True):
        differ = [
            at for at, pair in enumerate(zip(labels, peer_labels, strict=True)) if len({*pair}) > 1
        ]
        if ids != peer_ids or any(labels[at] != -100 for at in differ):
            raise SystemExit(f"a row is encoded differently:\n{ids}\n{peer_ids}")
        if {ids[at] for at in differ} - {ids[-1]}:
            raise SystemExit(f"other labels than the line break differ:\n{labels}\n{peer_labels}")
        more += len(differ)
    (work / "ours.json").write_text(json.dumps(setting.rows))
    script(setting.peer, _STORE, work / "ours.json", work / "peer-rows", peer=True)
    print(
        f"{len(setting.rows)} rows, {setting.tokens} tokens: the same ids on both sides; "
        f"{sum(label != -100 for _, labels in setting.rows for label in labels)} learned "
        f"(by itself LLaMA Factory would also learn {more} line breaks)"
    )


def train_ours(setting: Setting, side: Side, folder: Path) -> None:
    path, run = folder / "recipe.yaml", folder / "run"
    path.write_text(yaml.safe_dump(recipe(setting, side.pack_tokens)))
    command = [sys.executable, "-c", _SLIPWAY, "train", str(path), "--run-dir", str(run), "--json"]
    mark = '"kind": "train"'
    note(setting, side, watched(command, folder / "log", run / "events.jsonl", mark, environment()))
    side.eval_loss.append(eval_loss(setting, next(run.glob("*/*.safetensors")).parent))


def train_theirs(setting: Setting, side: Side, folder: Path, plain: bool) -> None:
    keys = {**peer_keys(setting), "output_dir": str(folder / "out")}
    keys["disable_gradient_checkpointing"] = plain
    path = folder / "train.yaml"
    path.write_text(yaml.safe_dump(keys))
    command = [str(setting.peer.parent / "llamafactory-cli"), "train", str(path)]
    env = environment(HF_HOME=str(folder / "hf"))
    del env["PYTHONPATH"]
    if setting.threads:
        env["OMP_NUM_THREADS"] = env["MKL_NUM_THREADS"] = str(setting.threads)
    told = folder / "out" / "trainer_log.jsonl"
    note(setting, side, watched(command, folder / "log", told, '"loss"', env))
    side.eval_loss.append(eval_loss(setting, folder / "out"))


def note(setting: Setting, side: Side, run: Watched) -> None:
    if len(run.steps) != setting.steps:
        raise SystemExit(f"{side.name}: {len(run.steps)} steps seen of {setting.steps}")
    (start, cpu_start), (end, cpu_end) = run.steps[0], run.steps[-1]
    later = sum(len(ids) for ids, _ in setting.rows[BATCH:])
    side.tokens_per_s.append(later / (end - start))
    side.tokens_per_cpu_s.append(later / (cpu_end - cpu_start))
    side.whole_tokens_per_s.append(setting.tokens / run.seconds)
    side.peak_rss_bytes.append(run.peak)


def eval_loss(setting: Setting, result: Path) -> float:
    arguments = (setting.base, setting.data, result, setting.method, str(CUTOFF))
    return float(script(sys.executable, _LOSS, *arguments).split()[-1])


def show(side: Side, done: str) -> None:
    print(
        f"{side.name:<34} {side.median('tokens_per_s'):>9.1f} "
        f"{side.median('tokens_per_cpu_s'):>12.1f} "
        f"{side.median('whole_tokens_per_s'):>9.1f} {side.median('peak_rss_bytes') / 1e9:>9.2f} "
        f"{side.median('eval_loss'):>9.4f}  {done}",
        flush=True,
    )


def refused(setting: Setting) -> str | None:
    """Why training here cannot do this method yet, if so."""
    from slipway.core.errors import UsageError
    from slipway.training.obeyed import require_obeyed
    from slipway.training.spec import TrainSpec

    try:
        require_obeyed(TrainSpec.model_validate(recipe(setting)))
    except UsageError as error:
        return error.message_en
    return None


def ratios(ours: Side, theirs: Side, ending: str = "") -> dict[str, float]:
    whats = {name: name for name in ("tokens_per_s", "tokens_per_cpu_s", "whole_tokens_per_s")}
    whats |= {"peak_rss": "peak_rss_bytes", "eval_loss": "eval_loss"}
    return {
        f"ratio_{name}{ending}": round(ours.median(what) / theirs.median(what), 4)
        for name, what in whats.items()
    }


def run(setting: Setting, rounds: int, plain: bool, pack_tokens: int | None) -> dict[str, Any]:
    ours, theirs = Side("Slipway"), Side(f"LLaMA Factory {VERSION}")
    small = Side(f"Slipway, pack_tokens={pack_tokens}", pack_tokens)
    bare = Side(f"LLaMA Factory {VERSION}, no recompute")
    sides = [ours, *([small] if pack_tokens else []), theirs, *([bare] if plain else [])]
    heads = ("whole", "peak GB", "eval loss")
    print(f"{'':<34}  tokens/s tokens/CPU s " + " ".join(f"{head:>9}" for head in heads))
    for number in range(1, rounds + 1):
        for side in sides:
            with tempfile.TemporaryDirectory(dir=setting.work) as place:
                if side in (ours, small):
                    train_ours(setting, side, Path(place))
                else:
                    train_theirs(setting, side, Path(place), side is bare)
            show(side, f"({number} of {rounds})")
    found: dict[str, Any] = ratios(ours, theirs)
    if pack_tokens:
        found |= ratios(small, theirs, "_small_packs")
    if plain:
        found |= ratios(ours, bare, "_no_recompute")
    found["sides"] = [asdict(side) for side in sides]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peer-env", type=Path, help="a ready environment; default: build one")
    parser.add_argument("--method", choices=list(RATES), default="lora")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--pack-tokens", type=int)
    parser.add_argument("--plain-peer", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    from slipway.core.hardware import probe
    from slipway.datasets import load_dataset

    home = Home.current()
    base = home.bases / STARTER
    if not base.is_dir():
        pull_base(STARTER, home=home)
    peer = (
        check(options.peer_env.absolute())
        if options.peer_env
        else make(home.cache / "peers" / f"llamafactory-{VERSION}")
    )
    data = ROOT / "examples" / "support-en"
    with tempfile.TemporaryDirectory() as place:
        shared = dict(base=base, data=data, work=Path(place), peer=peer, method=options.method)
        shared |= dict(steps=options.steps, threads=options.threads)
        shared |= dict(dtype="bf16" if probe().has_bf16 else "fp32")
        if reason := refused(Setting(**shared, rows=[])):
            print(f"left out: {reason}")
            return
        setting = prepare(shared, load_dataset(data, "train"))
        print(
            f"{options.method} in {setting.dtype}, {options.steps} steps of {BATCH} rows, "
            f"{probe().cores} cores"
        )
        found = run(setting, options.rounds, options.plain_peer, options.pack_tokens)
    for name, value in found.items():
        if name.startswith("ratio"):
            goal = GOALS.get(name.removeprefix("ratio_"))
            print(f"{name:<40} {value:>8.3f}" + (f"  (goal {goal})" if goal else ""))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
