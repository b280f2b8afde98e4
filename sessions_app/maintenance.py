"""Beat jobs of sessions."""

from django.utils import timezone

from cartrita.upkeep.jobs import job
from sessions_app import activity, commands


@job("sessions_app.expire_idle_sessions")
def expire_idle_sessions() -> int:
    """Expire the sessions that had no activity for an hour; return how many."""
    return len(commands.expire_idle_sessions(now=timezone.now()))


@job("sessions_app.delete_old_signs_of_life")
def delete_old_signs_of_life() -> int:
    """Delete when sockets showed sessions, where that tells nothing any more; return how many."""
    return activity.delete_old_signs(now=timezone.now())
