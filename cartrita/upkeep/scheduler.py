"""When jobs are due: rows that the admin edits, read by one beat at a time."""

import logging
import time
from collections.abc import Mapping
from typing import Any

import psycopg
from django.db import InterfaceError, OperationalError, close_old_connections
from django_celery_beat.models import PeriodicTask
from django_celery_beat.schedulers import DatabaseScheduler

from cartrita.eventstore.aio import connection_parameters

logger = logging.getLogger(__name__)

STANDBY_SECONDS = 2.0
RETRY_SECONDS = 1.0
NO_SUCH_JOB = "Switched off: this installation has no job of that name any more."


class Scheduler(DatabaseScheduler):  # type: ignore[misc] # the library has no types
    """The database's schedule, applied by one beat of all that run, through losses of the database.

    Several beats may run: the one that holds the lock works, the others stand by and take over within
    seconds. So each job becomes due once, not once for each beat.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._lead = Lead()
        super().__init__(*args, **kwargs)

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Send what is due; return the seconds until the next look."""
        try:
            close_old_connections()
            led = self._lead.held
            if not self._lead.take():
                return STANDBY_SECONDS
            if not led:
                self._read_anew()
            seconds: float = super().tick(*args, **kwargs)
        except (OperationalError, InterfaceError, psycopg.Error) as error:
            logger.warning("Beat waits for the database: %s", error)
            return RETRY_SECONDS
        return seconds

    def close(self) -> None:
        """Store what ran, and let another beat lead."""
        super().close()
        self._lead.release()

    def setup_schedule(self) -> None:
        """Add the rows of jobs that are new, and switch off those of jobs that are no more."""
        # Known by their modules, which nothing else loads where beat runs by itself.
        self.app.loader.import_default_modules()
        self.update_from_dict(self.app.conf.beat_schedule)
        self._switch_off_unknown()

    def update_from_dict(self, mapping: Mapping[str, Mapping[str, Any]]) -> None:
        """Add rows that do not exist; one that does is as somebody wants it, and stays."""
        there = set(PeriodicTask.objects.filter(name__in=mapping).values_list("name", flat=True))
        super().update_from_dict({name: entry for name, entry in mapping.items() if name not in there})

    def _switch_off_unknown(self) -> None:
        known = {name for name in self.app.tasks if not name.startswith("celery.")}
        for row in PeriodicTask.objects.filter(enabled=True).exclude(task__in=known):
            logger.warning("Schedule %r is switched off: there is no job %s.", row.name, row.task)
            row.enabled = False
            row.description = f"{row.description}\n{NO_SUCH_JOB}".strip()
            row.save()

    def _read_anew(self) -> None:
        """Forget when jobs ran as far as this beat knew: another one may have led since."""
        self._dirty.clear()
        self._schedule = self.all_as_schedule()
        self._heap = None


class Lead:
    """The lock that one beat holds for as long as its connection lives."""

    CHECK_SECONDS = 2.0

    def __init__(self) -> None:
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        self._checked_at = 0.0
        self.held = False

    def take(self) -> bool:
        """Return whether this process leads now. Raises psycopg.Error."""
        if self.held and time.monotonic() - self._checked_at < self.CHECK_SECONDS:
            return True
        try:
            if self._connection is None:
                parameters = {**connection_parameters(), "application_name": "cartrita beat"}
                self._connection = psycopg.connect(**parameters, autocommit=True)
            if self.held:
                self._connection.execute("select 1")  # a connection that lives holds its lock
            else:
                self.held = self._try()
        except psycopg.Error:
            self.release()
            raise
        self._checked_at = time.monotonic()
        return self.held

    def release(self) -> None:
        """Lead no more."""
        self.held = False
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _try(self) -> bool:
        if self._connection is None:
            return False
        row = self._connection.execute(
            "select pg_try_advisory_lock(hashtextextended('cartrita:beat', 0))"
        ).fetchone()
        if row is not None and row[0]:
            logger.info("This beat leads.")
            return True
        return False
