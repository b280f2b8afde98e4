"""The Celery application: scheduled maintenance. The embedded start applies its jobs in the beat process."""

import os
from typing import Any

from celery import Celery
from celery.signals import beat_init, setup_logging, worker_process_init

from cartrita import telemetry

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cartrita.settings")

app = Celery("cartrita")
# Of every thread: the admin, which starts jobs by hand, asks from one of its own.
app.set_default()
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(related_name="maintenance")


@setup_logging.connect(weak=False)  # type: ignore[untyped-decorator]
def log_as_everywhere(**_: Any) -> None:
    """Leave logging as settings.LOGGING has it: JSON lines, of the level that the environment says."""


@worker_process_init.connect(weak=False)  # type: ignore[untyped-decorator]
def trace_jobs(**_: Any) -> None:
    """Set spans up where jobs run: after the fork, which threads that export would not survive."""
    telemetry.set_up("worker")


@beat_init.connect(weak=False)  # type: ignore[untyped-decorator]
def trace_beat(**_: Any) -> None:
    """Set spans up where jobs are sent from."""
    telemetry.set_up("beat")
