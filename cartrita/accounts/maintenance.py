"""Beat jobs of accounts."""

from django.utils import timezone

from cartrita.accounts import commands
from cartrita.upkeep.jobs import job


@job("cartrita.accounts.delete_what_ended")
def delete_what_ended() -> int:
    """Delete ended tickets, links and counted failures; return how many."""
    return commands.delete_what_ended(now=timezone.now())
