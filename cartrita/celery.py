"""The Celery application: scheduled maintenance. The embedded start applies its tasks in the beat process."""

import os
from typing import Any

from celery import Celery
from celery.signals import setup_logging

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cartrita.settings")

app = Celery("cartrita")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(related_name="maintenance")


@setup_logging.connect(weak=False)  # type: ignore[untyped-decorator]
def log_as_everywhere(**_: Any) -> None:
    """Leave logging as settings.LOGGING has it: JSON lines, of the level that the environment says."""
