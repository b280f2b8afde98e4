"""Beat jobs of the orchestrator."""

from django.utils import timezone

from cartrita.orchestrator import claims
from cartrita.orchestrator.liveness import sessions_at_work
from cartrita.upkeep.jobs import job
from governance.commands.acts import settle_lost


@job("cartrita.orchestrator.reap_claims")
def reap_claims() -> int:
    """Delete what dead processes left of their claims on sessions; return how many."""
    return claims.reap_claims()


@job("cartrita.orchestrator.release_dead_reservations")
def release_dead_reservations() -> int:
    """Settle acts that hold back budget and that nobody will end any more; return how many."""
    return settle_lost(now=timezone.now(), at_work=sessions_at_work)
