"""The project's settings with the jobs of tests, and them alone, in a quick schedule."""

from cartrita.settings import *  # noqa: F403
from cartrita.settings import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "tests.upkeep.chores"]
CELERY_BEAT_SCHEDULE = {
    "fail": {"task": "tests.fail", "schedule": 1.0},
    "sweep": {"task": "tests.sweep", "schedule": 1.0},
}
# Seconds in place of minutes until a killed worker's job is given to another one, which looks each second.
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "visibility_timeout": 3,
    "polling_interval": 0.1,
    "unacked_restore_interval": 1,
    "unacked_restore_throttle": 1,
}
CELERY_BEAT_MAX_LOOP_INTERVAL = 0.5
