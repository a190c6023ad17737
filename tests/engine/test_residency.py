"""Residency with workers that are plain objects: every transition, no processes."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from slipway.core.errors import ResourceError, ToolError
from slipway.engine.residency import Residency
from slipway.engine.settings import EngineSettings
from slipway.engine.spec import Footprint, LoadSpec
from slipway.engine.table import BusyError, Entry, Request, WorkerLostError

GIB = 1 << 30


def spec(name: str, num_ctx: int = 4096, *, adapters: str = "", slots: int = 4) -> LoadSpec:
    """A model of one GiB, whatever its context."""
    paths = tuple(Path(adapter) for adapter in adapters)
    need = Footprint(weights_bytes=GIB)
    return LoadSpec(Path(name), None, "generate", num_ctx, slots, adapters=paths, footprint=need)


@dataclass
class FakeWorker:
    spec: LoadSpec
    base_url: str = ""
    key: str = ""
    running: bool = True
    answers: bool = True

    def is_running(self) -> bool:
        return self.running

    async def healthy(self, timeout_s: float) -> bool:
        return self.running and self.answers

    async def stop(self) -> None:
        await asyncio.sleep(0.01)
        self.running = False

    def memory_bytes(self) -> int:
        return GIB if self.running else 0


@dataclass
class FakeLauncher:
    load_s: float = 0.0
    fail: bool = False
    workers: list[FakeWorker] = field(default_factory=list)

    async def __call__(self, wanted: LoadSpec) -> FakeWorker:
        await asyncio.sleep(self.load_s)
        if self.fail:
            raise ToolError("engine.load_failed", "no")
        worker = FakeWorker(wanted)
        self.workers.append(worker)
        return worker

    @property
    def names(self) -> list[str]:
        return [worker.spec.gguf.name for worker in self.workers]


@asynccontextmanager
async def running(
    launcher: FakeLauncher, *, room_gib: int = 8, **settings: float
) -> AsyncIterator[Residency]:
    def free(entries: list[Entry]) -> int:
        return room_gib * GIB - sum(entry.memory_bytes() for entry in entries)

    residency = Residency(launcher, EngineSettings(**settings), free)  # type: ignore[arg-type]
    await residency.start()
    try:
        yield residency
    finally:
        await residency.close()
        assert not any(worker.running for worker in launcher.workers)


async def use(
    residency: Residency, name: str, keep: float | None = None, caller: str = "", **kw: Any
) -> None:
    async with residency.lease(spec(name, **kw), Request(name, keep, caller)):
        pass


async def until(condition: object, seconds: float = 3.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.005)


async def test_many_requests_share_one_load() -> None:
    launcher = FakeLauncher(load_s=0.05)
    async with running(launcher) as residency:
        await asyncio.gather(*(use(residency, "a") for _ in range(20)))
        assert launcher.names == ["a"]
        assert residency.counters.loads == {"a": 1}


async def test_an_idle_model_goes_when_its_keep_alive_is_over() -> None:
    launcher = FakeLauncher()
    async with running(launcher) as residency:
        await use(residency, "a", keep=0.05)
        assert [r.name for r in residency.residents()] == ["a"]
        await until(lambda: not launcher.workers[0].running)
        assert residency.residents() == []


async def test_keep_alive_zero_unloads_at_once_and_infinity_stays() -> None:
    launcher = FakeLauncher()
    async with running(launcher) as residency:
        await use(residency, "a", keep=0.0)
        await use(residency, "b", keep=math.inf)
        await until(lambda: not launcher.workers[0].running)
        assert residency.residents()[0].expires_in_s > 86_400 * 365
        assert launcher.workers[1].running


async def test_a_busy_model_outlives_its_keep_alive() -> None:
    launcher = FakeLauncher()
    async with running(launcher) as residency:
        async with residency.lease(spec("a"), Request("a", 0.01)):
            await asyncio.sleep(0.1)
            assert launcher.workers[0].running
        await until(lambda: not launcher.workers[0].running)


async def test_room_is_made_by_the_least_recently_used_idle_model() -> None:
    launcher = FakeLauncher()
    async with running(launcher, max_loaded=2) as residency:
        for name in ("a", "b", "a", "c"):
            await use(residency, name)
        assert [w.spec.gguf.name for w in launcher.workers if w.running] == ["a", "c"]
        assert residency.counters.evictions == {"b": 1}


async def test_a_request_waits_while_every_model_is_busy() -> None:
    launcher = FakeLauncher()
    async with running(launcher, max_loaded=1) as residency:
        async with residency.lease(spec("a"), Request("a")):
            waiting = asyncio.create_task(use(residency, "b"))
            await asyncio.sleep(0.05)
            assert launcher.names == ["a"]
            assert residency.queue_length == 1
        await waiting
        assert launcher.names == ["a", "b"]


async def test_more_waiting_requests_than_allowed_are_refused_with_503() -> None:
    launcher = FakeLauncher(load_s=0.2)
    async with running(launcher, max_queue=1) as residency:
        first = asyncio.create_task(use(residency, "a"))
        await asyncio.sleep(0.02)
        with pytest.raises(BusyError) as caught:
            await use(residency, "a")
        assert caught.value.http_status == 503
        await first


async def test_a_failed_load_fails_who_waits_and_the_next_request_tries_again() -> None:
    launcher = FakeLauncher(fail=True)
    async with running(launcher) as residency:
        results = await asyncio.gather(
            *(use(residency, "a") for _ in range(3)), return_exceptions=True
        )
        assert [type(r) for r in results] == [ToolError] * 3
        launcher.fail = False
        await use(residency, "a")
        assert residency.counters.load_failures == {"a": 1}


async def test_a_worker_that_died_under_a_request_is_replaced_for_the_next() -> None:
    launcher = FakeLauncher()
    async with running(launcher) as residency:
        with pytest.raises(WorkerLostError):
            async with residency.lease(spec("a"), Request("a")):
                launcher.workers[0].running = False
                raise WorkerLostError("engine.lost", "gone")
        await use(residency, "a")
        assert launcher.names == ["a", "a"]
        assert residency.counters.crashes == {"a": 1}


async def test_a_lost_connection_to_a_healthy_worker_keeps_it() -> None:
    launcher = FakeLauncher()
    async with running(launcher) as residency:
        with pytest.raises(WorkerLostError):
            async with residency.lease(spec("a"), Request("a")):
                raise WorkerLostError("engine.lost", "cut")
        await use(residency, "a")
        assert launcher.names == ["a"]
        assert residency.counters.crashes == {}


async def test_a_worker_that_hangs_is_stopped_and_replaced() -> None:
    launcher = FakeLauncher()
    async with running(launcher) as residency:
        with pytest.raises(WorkerLostError):
            async with residency.lease(spec("a"), Request("a")):
                launcher.workers[0].answers = False
                raise WorkerLostError("engine.lost", "silence")
        await use(residency, "a")
        await until(lambda: [w.running for w in launcher.workers] == [False, True])


async def test_a_worker_that_dies_idle_is_noticed() -> None:
    launcher = FakeLauncher()
    async with running(launcher) as residency:
        await use(residency, "a")
        launcher.workers[0].running = False
        await until(lambda: residency.residents() == [])
        await use(residency, "a")
        assert launcher.names == ["a", "a"]


async def test_a_client_that_leaves_while_loading_holds_nothing() -> None:
    launcher = FakeLauncher(load_s=0.05)
    async with running(launcher, keep_alive_s=0.05) as residency:
        task = asyncio.create_task(use(residency, "a"))
        await asyncio.sleep(0.01)
        task.cancel()
        await until(lambda: launcher.workers and not launcher.workers[0].running)


async def test_a_cancellation_at_the_moment_of_the_grant_gives_the_lease_back() -> None:
    launcher = FakeLauncher()
    async with running(launcher) as residency:
        await use(residency, "a")
        for hops in range(8):
            task = asyncio.create_task(use(residency, "a"))
            for _ in range(hops):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await asyncio.sleep(0.05)
        assert residency.residents()[0].leases == 0


async def test_a_larger_context_is_loaded_beside_the_smaller_which_ends_when_idle() -> None:
    launcher = FakeLauncher()
    async with running(launcher) as residency:
        await use(residency, "a", num_ctx=2048)
        await use(residency, "a", num_ctx=1024)
        assert len(launcher.workers) == 1
        async with residency.lease(spec("a", 2048), Request("a")):
            await use(residency, "a", num_ctx=8192)
            assert launcher.workers[0].running
        assert [w.spec.num_ctx for w in launcher.workers] == [2048, 8192]
        await until(lambda: not launcher.workers[0].running)
        assert launcher.workers[1].running


async def test_without_room_beside_a_larger_context_reloads_once_the_model_is_idle() -> None:
    launcher = FakeLauncher()
    async with running(launcher, room_gib=1) as residency:
        async with residency.lease(spec("a", 2048), Request("a")):
            larger = asyncio.create_task(use(residency, "a", num_ctx=8192))
            await asyncio.sleep(0.03)
            assert len(launcher.workers) == 1
        await larger
        assert [w.spec.num_ctx for w in launcher.workers] == [2048, 8192]


async def test_an_adapter_is_added_without_a_failed_request_and_the_others_stay() -> None:
    launcher = FakeLauncher()
    async with running(launcher) as residency:
        await use(residency, "a", adapters="x")
        async with (
            residency.lease(spec("a", adapters="x"), Request("a")) as old,
            residency.lease(spec("a", adapters="y"), Request("a")) as new,
        ):
            assert old.adapters == [{"id": 0, "scale": 1.0}]
            assert [path.name for path in new.spec.adapters] == ["y", "x"]
            assert new.adapters == [{"id": 0, "scale": 1.0}, {"id": 1, "scale": 0.0}]
        await until(lambda: not launcher.workers[0].running)
        async with residency.lease(spec("a", adapters="x"), Request("a")) as again:
            assert again.adapters == [{"id": 0, "scale": 0.0}, {"id": 1, "scale": 1.0}]
        async with residency.lease(spec("a"), Request("a")) as bare:
            assert bare.adapters == [{"id": 0, "scale": 0.0}, {"id": 1, "scale": 0.0}]
        assert len(launcher.workers) == 2


async def test_memory_decides_who_stays() -> None:
    launcher = FakeLauncher()
    async with running(launcher, room_gib=2) as residency:
        for name in ("a", "b", "a", "c"):
            await use(residency, name)
        assert [w.spec.gguf.name for w in launcher.workers if w.running] == ["a", "c"]
        assert residency.counters.evictions == {"b": 1}


async def test_a_model_that_never_fits_is_refused_with_numbers() -> None:
    async with running(FakeLauncher(), room_gib=0) as residency:
        with pytest.raises(ResourceError, match=r"needs 1.00 GiB.*at most 0.00 GiB"):
            await use(residency, "a")


async def test_a_pinned_model_is_neither_unloaded_nor_evicted() -> None:
    launcher = FakeLauncher()
    async with running(launcher, room_gib=1) as residency:
        residency.pin(spec("a").key)
        await use(residency, "a", keep=0.0)
        await asyncio.sleep(0.05)
        assert launcher.workers[0].running
        with pytest.raises(ResourceError, match="can be made free"):
            await use(residency, "b")
        assert launcher.workers[0].running


async def test_no_more_requests_are_served_at_once_than_there_are_slots() -> None:
    launcher = FakeLauncher()
    most = now = 0

    async def one() -> None:
        nonlocal most, now
        async with residency.lease(spec("a", slots=2), Request("a")):
            now += 1
            most = max(most, now)
            await asyncio.sleep(0.01)
            now -= 1

    async with running(launcher) as residency:
        await asyncio.gather(*(one() for _ in range(10)))
    assert most == 2


async def test_callers_take_turns_and_the_queue_shows_the_places() -> None:
    launcher = FakeLauncher()
    order: list[str] = []

    async def one(caller: str) -> None:
        async with residency.lease(spec("a", slots=1), Request("a", caller=caller, id=caller)):
            order.append(caller)

    async with running(launcher) as residency:
        async with residency.lease(spec("a", slots=1), Request("a", caller="big")):
            tasks = [asyncio.create_task(one(caller)) for caller in ["big"] * 5 + ["small"] * 2]
            await asyncio.sleep(0.02)
            queue = residency.queue()
            assert (queue[0].caller, queue[0].position) == ("small", 1)
            assert sorted(q.position for q in queue) == list(range(1, 8))
        await asyncio.gather(*tasks)
    assert order[0] == "small"
    assert sorted(order[:4]) == ["big", "big", "small", "small"]


async def test_a_request_that_waits_too_long_is_told_when_to_come_back() -> None:
    async with running(FakeLauncher()) as residency:
        async with residency.lease(spec("a", slots=1), Request("a")):
            with pytest.raises(BusyError) as caught:
                async with residency.lease(spec("a", slots=1), Request("a", patience_s=0.02)):
                    pass
            assert caught.value.retry_after_s >= 1
            await until(lambda: residency.queue() == [])
        await use(residency, "a", slots=1)


async def test_a_model_under_constant_load_makes_room_for_one_that_waited_long_enough() -> None:
    launcher = FakeLauncher()
    stop = False

    async def load(number: int) -> None:
        while not stop:
            async with residency.lease(spec("a"), Request("a")):
                await asyncio.sleep(0.005 * (number + 1))

    async with running(launcher, room_gib=1, switch_after_s=0.1) as residency:
        busy = [asyncio.create_task(load(number)) for number in range(3)]
        await asyncio.sleep(0.05)
        async with asyncio.timeout(3):
            await use(residency, "b")
        stop = True
        await asyncio.gather(*busy)
        assert launcher.names[:2] == ["a", "b"]


async def test_a_model_that_crashes_again_and_again_is_left_alone_for_a_while() -> None:
    launcher = FakeLauncher()
    async with running(launcher) as residency:
        begun = time.monotonic()
        for _ in range(2):
            with pytest.raises(WorkerLostError):
                async with residency.lease(spec("a"), Request("a")):
                    launcher.workers[-1].running = False
                    raise WorkerLostError("engine.lost", "gone")
        quick = time.monotonic() - begun
        await use(residency, "b")  # the others are untouched
        await use(residency, "a")
        assert quick < 1.0 <= time.monotonic() - begun
        assert len(launcher.workers) == 4


async def test_unload_stops_an_idle_model() -> None:
    launcher = FakeLauncher()
    async with running(launcher) as residency:
        await use(residency, "a")
        residency.unload(Path("a"))
        await until(lambda: not launcher.workers[0].running)


async def test_close_ends_loading_waiting_and_loaded() -> None:
    launcher = FakeLauncher(load_s=0.1)
    residency = Residency(launcher, EngineSettings(max_loaded=1), lambda entries: 8 * GIB)
    await residency.start()
    first = asyncio.create_task(use(residency, "a"))
    second = asyncio.create_task(use(residency, "b"))
    await asyncio.sleep(0.02)
    await residency.close()
    results = await asyncio.gather(first, second, return_exceptions=True)
    assert all(isinstance(r, ToolError) and r.http_status == 503 for r in results)


async def test_a_busy_model_that_is_unloaded_goes_when_its_request_ends() -> None:
    launcher = FakeLauncher()
    async with running(launcher) as residency:
        async with residency.lease(spec("a"), Request("a")):
            residency.unload(Path("a"))
            await asyncio.sleep(0.02)
            assert launcher.workers[0].running
        await until(lambda: not launcher.workers[0].running)


async def test_a_model_asked_for_after_its_unloading_stays() -> None:
    launcher = FakeLauncher()
    async with running(launcher) as residency:
        async with residency.lease(spec("a"), Request("a")):
            residency.unload(Path("a"))
            await use(residency, "a")
        await asyncio.sleep(0.05)
        assert launcher.names == ["a"]
        assert launcher.workers[0].running


async def test_a_client_that_leaves_before_it_is_refused_does_not_stop_the_others() -> None:
    launcher = FakeLauncher(load_s=0.05)
    async with running(launcher, max_queue=1) as residency:
        first = asyncio.create_task(use(residency, "a"))
        await asyncio.sleep(0.01)
        second = asyncio.create_task(use(residency, "a"))
        # cancelled in the step after the one in which it asked, before the owner has looked
        asyncio.get_running_loop().call_soon(second.cancel)
        await asyncio.gather(second, return_exceptions=True)
        async with asyncio.timeout(2):
            await first
            await use(residency, "b")
