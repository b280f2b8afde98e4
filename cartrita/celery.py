"""The Celery application: scheduled maintenance. The embedded start applies its tasks in the beat process."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cartrita.settings")

app = Celery("cartrita")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(related_name="maintenance")
