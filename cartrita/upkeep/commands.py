"""Upkeep of what Django and the schedule keep."""

from datetime import datetime

from django.contrib.sessions.models import Session


def delete_ended_logins(*, now: datetime) -> int:
    """Delete the logins of browsers that have ended; return how many. Nobody can use them any more."""
    deleted, _ = Session.objects.filter(expire_date__lt=now).delete()
    return deleted
