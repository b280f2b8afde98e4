"""Whether a second person must agree: one answer for policies, approvals and reviews."""

from collections.abc import Collection
from datetime import datetime
from uuid import UUID

from django.utils import timezone

from cartrita.accounts.queries import holders_since
from governance.four_eyes import COOLING, FourEyes, four_eyes_of


def four_eyes(workspace_id: UUID, roles: Collection[str], *, now: datetime | None = None) -> FourEyes:
    """Return four eyes among those who hold one of these roles in a workspace, or held one lately."""
    moment = now or timezone.now()
    held = holders_since(workspace_id, roles, since=moment - COOLING, now=moment)
    return four_eyes_of(held, now=moment)
