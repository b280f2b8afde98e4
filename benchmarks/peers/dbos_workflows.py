"""Runs DBOS workflows on PostgreSQL: one JSON line of figures.

Runs in the peers' environment:

    python dbos_workflows.py URL setup
    python dbos_workflows.py URL runs STEPS SECONDS TOGETHER MODE
    python dbos_workflows.py URL long MARK...                    a run as long as the last mark

MODE is `threads` for synchronous workflows in threads, `async` for coroutines in one loop. A step calls
nothing and returns 150 characters.
"""

import asyncio
import json
import secrets
import sys
import threading
import time
from typing import Any

import psycopg
from dbos import DBOS, _migration

SIZE = "select sum(pg_total_relation_size(oid))::int8 from pg_class where relkind = 'r' and oid > 16383"


def main() -> None:
    url, what, *rest = sys.argv[1:]
    DBOS(
        config={
            "name": "bench",
            "system_database_url": url,
            "log_level": "ERROR",
            "application_version": "1",
            "enable_otlp": False,
        }
    )
    if what == "setup":
        without_extension()
        DBOS.launch()
        DBOS.destroy()
        return
    if what == "runs":
        steps, seconds, together, mode = rest
        measure = in_threads if mode == "threads" else in_a_loop
        figures = measure(int(steps), float(seconds), int(together))
    else:
        figures = long(url, [int(mark) for mark in rest])
    print(json.dumps(figures))
    DBOS.destroy()


def without_extension() -> None:
    """Leave an extension out of its tables: embedded PostgreSQL has it not, and nothing of it is used."""
    theirs = _migration.get_dbos_migration_one

    def migration(*arguments: Any) -> str:
        return theirs(*arguments).replace('CREATE EXTENSION IF NOT EXISTS "uuid-ossp";', "")

    _migration.get_dbos_migration_one = migration


def text() -> str:
    """Return 150 characters that do not compress well."""
    return secrets.token_hex(75)


def in_threads(steps: int, seconds: float, together: int) -> dict[str, Any]:
    @DBOS.step()
    def work() -> str:
        return text()

    @DBOS.workflow()
    def workflow() -> None:
        for _ in range(steps):
            work()

    DBOS.launch()
    took: list[float] = []
    until = float("inf")
    ready = threading.Barrier(together + 1)

    def many() -> None:
        workflow()
        ready.wait()
        while time.perf_counter() < until:
            began = time.perf_counter()
            workflow()
            took.append(time.perf_counter() - began)

    workers = [threading.Thread(target=many) for _ in range(together)]
    for worker in workers:
        worker.start()
    until = time.perf_counter() + seconds + 60
    ready.wait()
    cpu, began = time.process_time(), time.perf_counter()
    until = began + seconds
    for worker in workers:
        worker.join()
    wall, used = time.perf_counter() - began, time.process_time() - cpu
    return {"count": len(took), "seconds": wall, "cpu": used, "runs": took}


def in_a_loop(steps: int, seconds: float, together: int) -> dict[str, Any]:
    @DBOS.step()
    async def work() -> str:
        return text()

    @DBOS.workflow()
    async def workflow() -> None:
        for _ in range(steps):
            await work()

    async def measure() -> dict[str, Any]:
        DBOS.launch()
        took: list[float] = []
        until = float("inf")

        async def many() -> None:
            while time.perf_counter() < until:
                began = time.perf_counter()
                await workflow()
                took.append(time.perf_counter() - began)

        await asyncio.gather(*(workflow() for _ in range(together)))
        cpu, began = time.process_time(), time.perf_counter()
        until = began + seconds
        await asyncio.gather(*(many() for _ in range(together)))
        wall, used = time.perf_counter() - began, time.process_time() - cpu
        return {"count": len(took), "seconds": wall, "cpu": used, "runs": took}

    return asyncio.run(measure())


def long(url: str, marks: list[int]) -> dict[str, Any]:
    at: list[float] = []
    cpu: list[float] = []
    sizes: list[tuple[int, int]] = []
    spent = 0.0
    with psycopg.connect(url, autocommit=True) as watch:

        @DBOS.step()
        def work() -> str:
            nonlocal spent
            began = time.perf_counter()
            if len(at) in (0, *marks):
                sizes.append(measured(watch))
                spent += time.perf_counter() - began
            at.append(began - spent)
            cpu.append(time.process_time())
            return text()

        @DBOS.workflow()
        def workflow() -> None:
            for _ in range(marks[-1] + 1):
                work()

        DBOS.launch()
        workflow()
    return {"at": at, "cpu": cpu, "bytes": [size for size, _ in sizes], "wal": [wal for _, wal in sizes]}


def measured(watch: "psycopg.Connection[Any]") -> tuple[int, int]:
    """Return the bytes of all tables with their indexes, and of the log that was written so far."""
    row = watch.execute(f"select ({SIZE}), (pg_current_wal_lsn() - '0/0')::int8").fetchone()
    if row is None:
        raise SystemExit("PostgreSQL gave no sizes")
    return int(row[0]), int(row[1])


if __name__ == "__main__":
    main()
