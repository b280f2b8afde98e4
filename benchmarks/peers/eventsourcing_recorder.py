"""Appends with eventsourcing's PostgreSQL ApplicationRecorder: one JSON line of events per second.

Runs in the peers' environment: python eventsourcing_recorder.py HOST USER DATABASE THREADS SECONDS PER_COMMIT
"""

import json
import sys
import threading
import time
from uuid import uuid4

from eventsourcing.persistence import StoredEvent
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore

STATE = b'{"note":"' + b"x" * 180 + b'","number":1}'


def main() -> None:
    host, user, database, threads, seconds, per_commit = sys.argv[1:7]
    best = 0.0
    # The recorder has two ways to insert; the faster one counts.
    for functions in (False, True):
        datastore = PostgresDatastore(
            dbname=database,
            host=host,
            port="",
            user=user,
            password="",
            pool_size=int(threads),
            pool_open_timeout=30,
            enable_db_functions=functions,
        )
        recorder = PostgresApplicationRecorder(
            datastore, events_table_name=f"stored_events_{functions}".lower()
        )
        recorder.create_table()
        best = max(best, measure(recorder, int(threads), float(seconds), int(per_commit)))
        datastore.close()
    print(json.dumps({"events_per_second": best}))


def measure(recorder: PostgresApplicationRecorder, threads: int, seconds: float, per_commit: int) -> float:
    counts = [0] * threads
    start = threading.Barrier(threads + 1)
    ends_at = [0.0]

    def write(index: int) -> None:
        start.wait()
        while time.perf_counter() < ends_at[0]:
            stream = uuid4()
            events = [
                StoredEvent(originator_id=stream, originator_version=version + 1, topic="bench", state=STATE)
                for version in range(per_commit)
            ]
            recorder.insert_events(events)
            counts[index] += per_commit

    workers = [threading.Thread(target=write, args=(index,)) for index in range(threads)]
    for worker in workers:
        worker.start()
    began = time.perf_counter()
    ends_at[0] = began + seconds
    start.wait()
    for worker in workers:
        worker.join()
    return sum(counts) / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
