"""Beat jobs of governance."""

from django.utils import timezone

from cartrita.upkeep.jobs import job
from governance.commands import approvals


@job("governance.expire_due_approvals")
def expire_due_approvals() -> int:
    """End the requests for approval whose time is over, which counts as no; return how many."""
    return approvals.expire_due(timezone.now())
