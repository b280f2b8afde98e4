"""The beat process: django-celery-beat's schedules, their jobs applied here, without broker or worker.

python -m cartrita.embedded.beat
"""

import logging
import os
import signal
import sys
import threading

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cartrita.settings")

logger = logging.getLogger(__name__)

# Less than the supervisor's patience, which is 20 s.
ENDING_SECONDS = 15.0


def main() -> int:
    """Run what is due until SIGTERM; returns the exit code."""
    from cartrita.embedded.children import follow_supervisor, name_process, report, terminate_self

    name_process("cartrita-beat")
    follow_supervisor(terminate_self)
    import django

    from cartrita import telemetry

    django.setup()
    telemetry.set_up("beat")

    from celery.beat import Service

    from cartrita.upkeep.application import app
    from cartrita.upkeep.scheduler import Scheduler

    # Each job runs in this process and in turn; a failing one is noted and logged, and the next one runs.
    app.conf.update(task_always_eager=True, task_eager_propagates=False)
    service = Service(app, scheduler_cls=Scheduler)

    def stop(*_: object) -> None:
        service.stop()
        # A job that waits for a database which says nothing hears of no stop; it runs again after the start.
        insist = threading.Timer(ENDING_SECONDS, os._exit, [1])
        insist.daemon = True
        insist.start()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    report()
    service.start()
    return 0


if __name__ == "__main__":
    sys.exit(main())
