"""The ledger's hot side: the same books as the plain version, whatever waits together."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from slipway.core.errors import SlipwayError
from slipway.gateway import Store, add_token, add_user, check_books, open_store
from slipway.gateway import list_tokens as tokens_of
from slipway.gateway.books import Books, Ending, Reserve, StaleError
from slipway.gateway.ledger import release, reserve, settle
from slipway.gateway.pricing import Usage
from slipway.gateway.problems import ApiError
from slipway.gateway.tables import entries, holds, revision
from slipway.gateway.usage import RequestRecord, record


def ready(path: Path, budgets: tuple[int | None, ...] = (1000,)) -> Store:
    store = open_store(path)
    add_user(store, "ada")
    for number, budget in enumerate(budgets):
        add_token(store, f"t{number}", user="ada", budget_micro=budget)
    with store.write() as db:
        db.exec_driver_sql(
            "INSERT INTO channels (id, name, kind, base_url, reach, models, priority, weight,"
            " enabled, created_at) VALUES (1, 'c', 'slipway', 'http://x', 'loopback', '{}', 0, 1,"
            " 1, 0)"
        )
    return store


def revision_of(store: Store) -> int:
    with store.read() as db:
        return int(db.execute(select(revision.c.value)).scalar_one())


def row(name: str, token: int, cost: int) -> RequestRecord:
    return RequestRecord(
        request_id=name,
        client_request_id=None,
        created_at=1,
        user_id=1,
        token_id=token,
        channel_id=1,
        model="m",
        endpoint="/v1/chat/completions",
        usage=Usage(3, 4),
        cost_micro=cost,
        priced=True,
        status=200,
        error=None,
        stream=False,
        ttft_ms=1,
        duration_ms=2,
    )


Step = tuple[str, int, int, int]  # what, request, token, micro-units
steps = st.lists(
    st.tuples(
        st.sampled_from(("reserve", "settle", "release")),
        st.integers(0, 5),
        st.integers(1, 2),
        st.integers(0, 700),
    ),
    max_size=14,
)


async def hot(store: Store, asked: list[Step]) -> list[Any]:
    books, number = Books(store), revision_of(store)

    async def one(step: Step) -> Any:
        what, request, token, micro = step
        name = f"r{request}"
        try:
            if what == "reserve":
                await books.reserve(Reserve(name, token, micro, "m", "/v1", 1, number))
                return True
            return await books.end(Ending(row(name, token, micro), what == "settle", 2))
        except (ApiError, SlipwayError) as error:
            return getattr(error, "code", "error")
        except Exception:
            return "twice"

    found = list(await asyncio.gather(*(one(step) for step in asked)))
    await books.close()
    return found


def plain(store: Store, asked: list[Step]) -> list[Any]:
    found: list[Any] = []
    tokens = {token.id: token for token in tokens_of(store)}
    for what, request, token, micro in asked:
        name = f"r{request}"
        try:
            with store.write() as db:
                if what == "reserve":
                    reserve(db, name, tokens[token], micro, model="m", endpoint="/v1")
                    found.append(True)
                    continue
                done = settle(db, name, micro, 1) if what == "settle" else release(db, name)
                if done:
                    record(db, row(name, token, micro))
                found.append(done)
        except ApiError as error:
            found.append(error.code)
        except Exception:
            found.append("twice")
    return found


def contents(store: Store) -> Any:
    with store.read() as db:
        moves = db.execute(
            select(entries.c.request_id, entries.c.phase, entries.c.account, entries.c.amount_micro)
        )
        states = db.execute(select(holds.c.request_id, holds.c.state, holds.c.amount_micro))
        sums = [(t.id, t.used_micro, t.held_micro) for t in tokens_of(store)]
        return sorted(map(tuple, moves)), sorted(map(tuple, states)), sums


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(asked=steps)
def test_group_commits_book_what_single_ones_do(
    tmp_path_factory: pytest.TempPathFactory, asked: list[Step]
) -> None:
    folder = tmp_path_factory.mktemp("books")
    one, two = ready(folder / "one.db", (1000, None)), ready(folder / "two.db", (1000, None))
    try:
        assert asyncio.run(hot(one, asked)) == plain(two, asked)
        assert contents(one) == contents(two)
        assert check_books(one) == []
    finally:
        one.close()
        two.close()


def test_an_old_admission_reserves_nothing(tmp_path: Path) -> None:
    store = ready(tmp_path / "g.db")

    async def run() -> None:
        books, number = Books(store), revision_of(store)
        add_user(store, "bob")  # by whatever process
        with pytest.raises(StaleError) as caught:
            await books.reserve(Reserve("r", 1, 5, "m", "/v1", 1, number))
        assert caught.value.revision == number + 1
        await books.reserve(Reserve("r", 1, 5, "m", "/v1", 1, number + 1))
        await books.close()

    asyncio.run(run())
    assert contents(store)[1] == [("r", "held", 5)]
    store.close()


def test_one_that_fails_does_not_fail_those_beside_it(tmp_path: Path) -> None:
    store = ready(tmp_path / "g.db", (10_000,))

    async def run() -> list[Any]:
        books, number = Books(store), revision_of(store)
        names = ["a", "b", "b", "c"]  # one id twice: the database refuses the second
        waiting = [books.reserve(Reserve(n, 1, 5, "m", "/v1", 1, number)) for n in names]
        found = await asyncio.gather(*waiting, return_exceptions=True)
        await books.close()
        return list(found)

    found = asyncio.run(run())
    assert [isinstance(outcome, Exception) for outcome in found] == [False, False, True, False]
    assert check_books(store) == []
    assert tokens_of(store)[0].held_micro == 15
    store.close()


def test_a_cancelled_waiter_does_not_stop_the_booking(tmp_path: Path) -> None:
    store = ready(tmp_path / "g.db")

    async def run() -> None:
        books, number = Books(store), revision_of(store)
        task = asyncio.create_task(books.reserve(Reserve("r", 1, 5, "m", "/v1", 1, number)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await books.close()

    asyncio.run(run())
    assert contents(store)[1] == [("r", "held", 5)]
    store.close()


def test_the_log_does_not_grow_for_ever(tmp_path: Path) -> None:
    store = ready(tmp_path / "g.db", (None,))

    async def run() -> None:
        books, number = Books(store), revision_of(store)
        for part in range(6):
            names = [f"r{part}-{i}" for i in range(400)]
            await asyncio.gather(
                *(books.reserve(Reserve(n, 1, 5, "m", "/v1", 1, number)) for n in names)
            )
            await asyncio.sleep(0.6)
        await books.close()

    asyncio.run(run())
    assert (tmp_path / "g.db-wal").stat().st_size < 3_000_000
    store.close()
