"""Beat jobs of sessions."""

from celery import shared_task
from django.utils import timezone

from sessions_app import commands


@shared_task(name="sessions_app.expire_idle_sessions")  # type: ignore[untyped-decorator]
def expire_idle_sessions() -> int:
    """Expire the sessions that had no activity for an hour; return how many."""
    return len(commands.expire_idle_sessions(now=timezone.now()))
