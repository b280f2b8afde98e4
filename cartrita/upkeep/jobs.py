"""Jobs: small commands that run again and again, and of which it is known how they ended.

A job runs at most once at a time, whoever starts it: a second one finds the first one's lock and does
nothing. It is idempotent all the same, for one whose worker was killed is started again from the beginning.
"""

import functools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, ClassVar

from celery import shared_task
from django.db import Error, close_old_connections, connection
from django.db.models import F
from django.utils import timezone
from django_celery_beat.models import PeriodicTask
from opentelemetry.trace import SpanKind

from cartrita import telemetry
from cartrita.errors import CartritaError, Unavailable
from cartrita.upkeep.models import Job

logger = logging.getLogger(__name__)

# The most frequent job runs twice a minute; when none did for so long, nobody runs jobs.
SILENT_FOR = timedelta(minutes=10)


class JobsFail(Unavailable):
    """Jobs failed when they ran last; the message names them."""

    code: ClassVar[str] = "jobs_fail"


class NoJobsRun(Unavailable):
    """The schedule has jobs, and none has run lately."""

    code: ClassVar[str] = "no_jobs_run"


def job(name: str) -> Callable[[Callable[[], int]], Callable[[], int | None]]:
    """Make a function of no arguments a job under that name: a Celery task.

    The function returns how many things it dealt with; the job that, or None when it runs elsewhere now. What
    the function raises is noted and raised.
    """

    def register(work: Callable[[], int]) -> Callable[[], int | None]:
        @functools.wraps(work)
        def run() -> int | None:
            return run_job(name, work)

        task: Callable[[], int | None] = shared_task(name=name)(run)
        return task

    return register


def run_job(name: str, work: Callable[[], int]) -> int | None:
    """Run `work` unless it runs now under the same name, and note how it ended; return what it returned."""
    # Beat applies jobs in one long-lived thread, whose connection may have been lost since the last one.
    close_old_connections()
    with _alone(name) as alone:
        if not alone:
            logger.info("Job %s runs elsewhere now.", name)
            return None
        began = time.monotonic()
        _note_begin(name)
        try:
            with telemetry.span(f"{telemetry.SPAN_JOB} {name}", kind=SpanKind.CONSUMER) as span:
                counted = work()
                span.set_attribute(telemetry.COUNTED, counted)
        except Exception as error:
            _note_failure(name, error, _milliseconds(began))
            raise
        milliseconds = _milliseconds(began)
        _note_end(name, counted, milliseconds)
    logger.log(
        logging.INFO if counted else logging.DEBUG, "Job %s: %d in %d ms.", name, counted, milliseconds
    )
    return counted


def standing() -> Mapping[str, Any]:
    """Return when a job began last, and each job's last failure if it came after its last success.

    Raises JobsFail, NoJobsRun. An installation where no job ever ran is not wrong, only new.
    """
    rows = list(Job.objects.all())
    failing = [f"{row.name} ({row.failed_at:%Y-%m-%d %H:%M:%S} UTC)" for row in rows if _failed_last(row)]
    if failing:
        raise JobsFail(f"failed when they ran last: {', '.join(failing)}")
    last_run = max((row.began_at for row in rows), default=None)
    if last_run is not None and timezone.now() - last_run > SILENT_FOR and _has_schedule(rows):
        raise NoJobsRun(f"no job has run since {last_run:%Y-%m-%d %H:%M:%S} UTC: is beat running?")
    return {"jobs": len(rows), "last_run": last_run.isoformat() if last_run is not None else None}


def _failed_last(row: Job) -> bool:
    return row.failed_at is not None and (row.went_well_at is None or row.went_well_at < row.failed_at)


def _has_schedule(rows: Iterable[Job]) -> bool:
    """Tell whether anybody wants these jobs to run."""
    wanted: bool = PeriodicTask.objects.filter(enabled=True, task__in=[row.name for row in rows]).exists()
    return wanted


@contextmanager
def _alone(name: str) -> Iterator[bool]:
    """Hold the job's lock for this connection; False when another process holds it.

    A process that dies lets go.
    """
    key = f"cartrita:job:{name}"
    with connection.cursor() as cursor:
        cursor.execute("select pg_try_advisory_lock(hashtextextended(%s, 0))", [key])
        (alone,) = cursor.fetchone()
        held_by = connection.connection
    try:
        yield alone
    finally:
        # A connection that was lost has taken the lock along.
        if alone and connection.connection is held_by and not held_by.closed:
            with connection.cursor() as cursor:
                cursor.execute("select pg_advisory_unlock(hashtextextended(%s, 0))", [key])


def _note_begin(name: str) -> None:
    now = timezone.now()
    _, made = Job.objects.get_or_create(name=name, defaults={"began_at": now, "runs": 1})
    if not made:
        Job.objects.filter(name=name).update(began_at=now, ended_at=None, runs=F("runs") + 1)


def _note_end(name: str, counted: int, milliseconds: int) -> None:
    now = timezone.now()
    Job.objects.filter(name=name).update(
        ended_at=now, went_well_at=now, counted=counted, milliseconds=milliseconds
    )


def _note_failure(name: str, error: Exception, milliseconds: int) -> None:
    # Only what the program itself says: texts of other errors may quote what people wrote. The log has all.
    said = f"{error.code}: {error.message}" if isinstance(error, CartritaError) else type(error).__name__
    now = timezone.now()
    try:
        close_old_connections()
        Job.objects.filter(name=name).update(
            ended_at=now,
            failed_at=now,
            failure=said[:200],
            milliseconds=milliseconds,
            failures=F("failures") + 1,
        )
    except Error as lost:
        logger.warning("The failure of job %s could not be noted: %s", name, lost)


def _milliseconds(began: float) -> int:
    return round((time.monotonic() - began) * 1000)
