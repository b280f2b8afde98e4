"""Runs LangGraph graphs with its PostgreSQL saver: one JSON line of figures.

Runs in the peers' environment:

    python langgraph_runs.py URL setup
    python langgraph_runs.py URL first COUNT           milliseconds to the first streamed chunk, each
    python langgraph_runs.py URL runs STEPS SECONDS TOGETHER MODE
    python langgraph_runs.py URL long MARK...                    a run as long as the last mark

MODE is LangGraph's durability: `sync` has each checkpoint stored before the next step, `async`, its default,
beside it. A step is a node that calls nothing and returns 150 characters.
"""

import asyncio
import json
import operator
import secrets
import sys
import time
from typing import Annotated, Any, TypedDict
from uuid import uuid4

import psycopg
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, StateGraph
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

SIZE = "select sum(pg_total_relation_size(oid))::int8 from pg_class where relkind = 'r' and oid > 16383"


class State(TypedDict):
    # As agents keep what was said: each step adds to it.
    said: Annotated[list[str], operator.add]


async def main() -> None:
    url, what, *rest = sys.argv[1:]
    together = int(rest[2]) if what == "runs" else 1
    async with AsyncConnectionPool(
        url,
        min_size=min(together, 8),
        max_size=min(together, 8),
        # As AsyncPostgresSaver.from_conn_string makes its one connection.
        kwargs={"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row},
    ) as pool:
        saver = AsyncPostgresSaver(pool)  # type: ignore[arg-type]
        if what == "setup":
            await saver.setup()
            return
        if what == "first":
            figures: dict[str, Any] = {"milliseconds": await first(saver, int(rest[0]))}
        elif what == "runs":
            steps, seconds, _, mode = rest
            figures = await runs(saver, int(steps), float(seconds), together, mode)
        else:
            figures = await long(saver, url, [int(mark) for mark in rest])
    print(json.dumps(figures))


def text() -> str:
    """Return 150 characters that do not compress well."""
    return secrets.token_hex(75)


def chain(saver: AsyncPostgresSaver, steps: int) -> Any:
    """Return a graph of so many nodes, one after the other."""

    async def work(_: State) -> dict[str, Any]:
        return {"said": [text()]}

    graph = StateGraph(State)
    before = START
    for number in range(steps):
        graph.add_node(f"step{number}", work)
        graph.add_edge(before, f"step{number}")
        before = f"step{number}"
    graph.add_edge(before, END)
    return graph.compile(checkpointer=saver)


def circle(saver: AsyncPostgresSaver, steps: int, work: Any) -> Any:
    """Return a graph of one node that is gone through so many times."""
    graph = StateGraph(State)
    graph.add_node("step", work)
    graph.add_edge(START, "step")
    graph.add_conditional_edges("step", lambda state: "step" if len(state["said"]) < steps else END)
    return graph.compile(checkpointer=saver)


def place(steps: int) -> dict[str, Any]:
    return {"configurable": {"thread_id": str(uuid4())}, "recursion_limit": steps + 10}


async def first(saver: AsyncPostgresSaver, count: int) -> list[float]:
    async def work(_: State) -> dict[str, Any]:
        get_stream_writer()(text())
        return {"said": [text()]}

    graph = circle(saver, 1, work)
    found = []
    for _ in range(count + 10):
        await asyncio.sleep(0.02)
        began = time.perf_counter()
        arrived = None
        async for _chunk in graph.astream({"said": []}, place(1), stream_mode="custom", durability="sync"):
            arrived = arrived or time.perf_counter()
        if arrived is None:
            raise SystemExit("nothing was streamed")
        found.append(1000 * (arrived - began))
    return found[10:]


async def runs(
    saver: AsyncPostgresSaver, steps: int, seconds: float, together: int, mode: str
) -> dict[str, Any]:
    async def work(_: State) -> dict[str, Any]:
        return {"said": [text()]}

    graph = chain(saver, steps) if steps < 10 else circle(saver, steps, work)
    took: list[float] = []
    until = float("inf")

    async def one() -> None:
        began = time.perf_counter()
        await graph.ainvoke({"said": []}, place(steps), durability=mode)
        took.append(time.perf_counter() - began)

    async def many() -> None:
        while time.perf_counter() < until:
            await one()

    await asyncio.gather(*(one() for _ in range(together)))
    took.clear()
    cpu, began = time.process_time(), time.perf_counter()
    until = began + seconds
    await asyncio.gather(*(many() for _ in range(together)))
    wall, used = time.perf_counter() - began, time.process_time() - cpu
    return {"count": len(took), "seconds": wall, "cpu": used, "runs": took}


async def long(saver: AsyncPostgresSaver, url: str, marks: list[int]) -> dict[str, Any]:
    with psycopg.connect(url, autocommit=True) as watch:
        at: list[float] = []
        cpu: list[float] = []
        sizes: list[tuple[int, int]] = []
        spent = 0.0

        async def work(_: State) -> dict[str, Any]:
            nonlocal spent
            began = time.perf_counter()
            if len(at) in (0, *marks):
                sizes.append(measured(watch))
                spent += time.perf_counter() - began
            at.append(began - spent)
            cpu.append(time.process_time())
            return {"said": [text()]}

        graph = circle(saver, marks[-1] + 1, work)
        await graph.ainvoke({"said": []}, place(marks[-1] + 1), durability="sync")
    return {"at": at, "cpu": cpu, "bytes": [size for size, _ in sizes], "wal": [wal for _, wal in sizes]}


def measured(watch: "psycopg.Connection[Any]") -> tuple[int, int]:
    """Return the bytes of all tables with their indexes, and of the log that was written so far."""
    row = watch.execute(f"select ({SIZE}), (pg_current_wal_lsn() - '0/0')::int8").fetchone()
    if row is None:
        raise SystemExit("PostgreSQL gave no sizes")
    return int(row[0]), int(row[1])


if __name__ == "__main__":
    asyncio.run(main())
