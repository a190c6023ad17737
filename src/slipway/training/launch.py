"""Starting the processes that train one run together, on this machine or on a Ray cluster."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from slipway.core.errors import SlipwayError, UsageError
from slipway.core.i18n import tr

_PATIENCE_S = 30.0  # for a checkpoint, after a signal
_LOOK_EVERY_S = 0.1


def is_follower() -> bool:
    """Whether this process belongs to a run that another process (rank 0) tells about."""
    return os.environ.get("RANK", "0") != "0"


def place(rank: int, size: int, port: int) -> dict[str, str]:
    """The environment that tells a process its place among `size` on this machine."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def run_processes(size: int, arguments: Sequence[str]) -> int:
    """Run `slipway ARGUMENTS` in `size` processes of one world; return the worst exit code.

    When one of them fails the others are ended. A signal is passed on to all, and they get time to
    save a checkpoint.
    """
    port = _free_port()
    command = [sys.executable, "-m", "slipway", *arguments]
    group = [
        subprocess.Popen(command, env={**os.environ, **place(rank, size, port)})
        for rank in range(size)
    ]
    signals: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: signals.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        return _wait(group, signals)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for process in group:
            if process.poll() is None:
                process.kill()
            process.wait()


def _wait(group: Sequence[subprocess.Popen[bytes]], signals: list[int]) -> int:
    deadline: float | None = None
    while True:
        codes = [process.poll() for process in group]
        if all(code is not None for code in codes):
            break
        if deadline is None and (signals or any(codes)):
            deadline = time.monotonic() + _PATIENCE_S
            for process in group:
                if process.poll() is None and (signals or any(codes)):
                    process.send_signal(signals[0] if signals else signal.SIGTERM)
        if deadline is not None and time.monotonic() > deadline:
            break
        time.sleep(_LOOK_EVERY_S)
    failed = [code for code in (process.poll() for process in group) if code]
    # the chief's own code says most; a process ended by a signal has a negative one
    first = group[0].poll()
    return int(first if first and first > 0 else max(failed, default=0) if failed else 0) or (
        1 if failed else 0
    )


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def ray_worker(config: Mapping[str, Any]) -> None:
    """What each worker of a Ray job does: the run that `config` describes, as part of the world."""
    from pathlib import Path

    from ray import train as ray_train

    from slipway.core.events import EventLog
    from slipway.training.folder import resolved_from
    from slipway.training.run import train

    here = ray_train.get_context()
    os.environ["SLIPWAY_HOME"] = str(config["home"])
    os.environ["RANK"] = str(here.get_world_rank())
    os.environ["LOCAL_RANK"] = str(here.get_local_rank())
    os.environ["WORLD_SIZE"] = str(here.get_world_size())
    os.environ["LOCAL_WORLD_SIZE"] = str(here.get_local_world_size())
    train(
        resolved_from(dict(config["settings"])),
        run_dir=Path(config["run_dir"]),
        events=EventLog(None),
        resume=not config["fresh"],
    )


def run_on_ray(
    work: Callable[[Mapping[str, Any]], None], config: Mapping[str, Any], processes: int
) -> None:
    """Run `work(config)` in `processes` workers of a Ray Train job, which form one world.

    The cluster is the one that RAY_ADDRESS names, else one that is started here and ended after.
    Base, data and run folder must be reachable under the same paths from every worker.

    Raises:
        UsageError: ray is not installed.
        SlipwayError: a worker failed; with its own message.
    """
    try:
        import ray
        from ray.train import RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer
    except ImportError as error:
        raise UsageError(
            "train.no_ray",
            tr("`--launcher ray` needs the package ray"),
            tr("install it with `pip install 'slipway[ray]'`"),
        ) from error
    import torch

    gpu = torch.cuda.is_available()
    mine = not ray.is_initialized()
    if mine:
        ray.init(address=os.environ.get("RAY_ADDRESS"), log_to_driver=True)
    try:
        trainer = TorchTrainer(
            work,
            train_loop_config=dict(config),
            torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
            scaling_config=ScalingConfig(num_workers=processes, use_gpu=gpu),
            run_config=RunConfig(storage_path=str(config["ray_dir"])),
        )
        trainer.fit()
    except Exception as error:  # Ray wraps the worker's own
        raise SlipwayError(
            "train.ray_failed",
            tr("a worker of the Ray job failed: {reason}", reason=str(error).splitlines()[0]),
            tr("the worker's own log is in {path}", path=str(config["ray_dir"])),
        ) from error
    finally:
        if mine:
            ray.shutdown()
