"""The beat process of the embedded start: jobs in turn, without a broker."""

import signal
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from cartrita.upkeep.models import Job
from tests.celery.processes import Processes, processes, until
from tests.databases import Database


@pytest.fixture
def started(database: Database, tmp_path: Path) -> Iterator[Processes]:
    with processes(tmp_path, "") as made:
        yield made


class TestBeat:
    def test_applies_jobs_whatever_becomes_of_others_and_of_the_database(
        self, started: Processes, database: Database
    ) -> None:
        beat = started.embedded_beat("beat")
        until(lambda: len(started.notes("sweep")) >= 3, what="three sweeps")
        until(lambda: Job.objects.filter(name="tests.fail", failures__gte=2).exists())
        assert Job.objects.get(name="tests.fail").failure == "RuntimeError"
        with psycopg.connect(database.superuser_url, autocommit=True) as superuser:
            superuser.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = current_database() and pid <> pg_backend_pid()"
            )
        swept = len(started.notes("sweep"))
        until(lambda: len(started.notes("sweep")) >= swept + 3, what="sweeps afterwards")
        assert beat.poll() is None
        beat.send_signal(signal.SIGTERM)
        assert beat.wait(timeout=90) == 0
        said = started.log("beat").read_text()
        assert "the broom is broken" in said
