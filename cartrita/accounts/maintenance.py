"""Beat jobs of accounts and of stored answers."""

from celery import shared_task
from django.utils import timezone

from cartrita.accounts import commands
from cartrita.http.idempotency import delete_old_answers


@shared_task(name="cartrita.accounts.delete_what_ended")  # type: ignore[untyped-decorator]
def delete_what_ended() -> int:
    """Delete ended tickets, links and counted failures; return how many."""
    return commands.delete_what_ended(now=timezone.now())


@shared_task(name="cartrita.http.delete_old_answers")  # type: ignore[untyped-decorator]
def delete_stored_answers() -> int:
    """Delete answers of requests with an Idempotency-Key after 24 hours; return how many."""
    return delete_old_answers(now=timezone.now())
