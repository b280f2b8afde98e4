"""Beat jobs of governance."""

from celery import shared_task
from django.utils import timezone

from governance.commands import approvals


@shared_task(name="governance.expire_due_approvals")  # type: ignore[untyped-decorator]
def expire_due_approvals() -> int:
    """End the requests for approval whose time is over, which counts as no; return how many."""
    return approvals.expire_due(timezone.now())
