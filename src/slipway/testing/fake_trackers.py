"""Stand-ins for the `swanlab` and `wandb` packages that keep what they are told.

They have the functions and argument names that the real ones document, and refuse others; so a
call that the real package would not take fails here too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


@dataclass
class Kept:
    """What a fake tracker was told.

    Attributes:
        begun: the arguments of `init`.
        logged: (step, values) of each call, step None where it was not given.
        finished: whether it was closed.
    """

    begun: dict[str, Any] = field(default_factory=dict)
    logged: list[tuple[int | None, dict[str, Any]]] = field(default_factory=list)
    finished: bool = False


def fake_swanlab() -> tuple[ModuleType, Kept]:
    """A module to put into `sys.modules["swanlab"]`, and what it keeps."""
    kept = Kept()

    def init(
        project: str,
        *,
        experiment_name: str | None = None,
        config: dict[str, Any] | None = None,
        logdir: str | None = None,
        mode: str | None = None,
        id: str | None = None,
        resume: str | bool | None = None,
    ) -> None:
        if id is not None and len(id) != 21:
            raise ValueError("swanlab ids have 21 characters")
        kept.begun = {"project": project, "name": experiment_name, "config": config, "id": id}

    def log(data: dict[str, Any], step: int | None = None) -> None:
        kept.logged.append((step, data))

    def finish() -> None:
        kept.finished = True

    return _module("swanlab", init=init, log=log, finish=finish, Text=str), kept


def fake_wandb() -> tuple[ModuleType, Kept]:
    """A module to put into `sys.modules["wandb"]`, and what it keeps."""
    kept = Kept()

    class Run:
        def log(self, data: dict[str, Any]) -> None:
            kept.logged.append((None, data))

        def define_metric(self, name: str, step_metric: str) -> None:
            kept.begun["step_metric"] = step_metric

        def finish(self) -> None:
            kept.finished = True

    def init(
        project: str,
        *,
        name: str,
        config: dict[str, Any],
        dir: str,
        id: str,
        resume: str,
    ) -> Run:
        kept.begun.update(project=project, name=name, config=config, id=id, resume=resume)
        return Run()

    return _module("wandb", init=init), kept


def _module(name: str, **contents: object) -> ModuleType:
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    for key, value in contents.items():
        setattr(module, key, value)
    return module
