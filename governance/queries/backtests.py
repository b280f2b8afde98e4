"""Back-tests: which there are, how far they have come, and what they found."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from cartrita.accounts.queries import Caller
from cartrita.eventstore import get_blob
from cartrita.http.pagination import DEFAULT_LIMIT, Page, page_of
from governance.backtest.back_test import READERS, MayNotBackTest, NoReport, UnknownBackTest, listed
from governance.models import BackTest, BackTestProgress


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A back-test as it stands: its row, and how far it is while it is carried out.

    `decisions` of `total` are dealt with; both are 0 until they are counted. `phase` is `queued`, `counting`,
    `buckets` (levels of buckets that nothing was recorded of are worked out), `deciding`, or "" at its end.
    """

    row: BackTest
    phase: str
    decisions: int
    total: int
    began_at: datetime | None

    @property
    def percent(self) -> int:
        """How much is done, from 0 to 100."""
        if self.row.status != "requested":
            return 100
        return min(self.decisions * 100 // self.total, 99) if self.total else 0


def latest(workspace_id: UUID, policy_hash: str) -> BackTest | None:
    """Return the newest back-test of a set over all decisions that has a report, None where there is none."""
    return (
        BackTest.objects.filter(
            workspace_id=workspace_id,
            policy_hash=policy_hash,
            status="completed",
            since=None,
            until=None,
            only_session=None,
        )
        .order_by("-requested_at", "-id")
        .first()
    )


def back_tests(
    caller: Caller,
    *,
    policy_hash: str = "",
    status: str = "",
    cursor: str | None = None,
    limit: int = DEFAULT_LIMIT,
) -> Page:
    """Return a page of the workspace's back-tests, newest first, each as it stands. Raises MayNotBackTest."""
    require_reader(caller)
    return of_workspace(
        caller.workspace_id, policy_hash=policy_hash, status=status, cursor=cursor, limit=limit
    )


def of_workspace(
    workspace_id: UUID,
    *,
    policy_hash: str = "",
    status: str = "",
    cursor: str | None = None,
    limit: int = DEFAULT_LIMIT,
) -> Page:
    """Return a page of a workspace's back-tests, as `back_tests`, to whoever may see them."""
    rows = BackTest.objects.filter(workspace_id=workspace_id)
    if policy_hash:
        rows = rows.filter(policy_hash=policy_hash)
    if status:
        rows = rows.filter(status=status)
    page = page_of(rows, order=("-requested_at", "-id"), cursor=cursor, limit=limit)
    return Page(standings(page.items), page.next_cursor)


def back_test(back_test_id: UUID, caller: Caller) -> Standing:
    """Return a back-test as it stands. Raises UnknownBackTest, MayNotBackTest."""
    require_reader(caller)
    row = BackTest.objects.filter(id=back_test_id, workspace_id=caller.workspace_id).first()
    if row is None:
        raise UnknownBackTest("There is no such back-test.", field="back_test_id")
    return standings([row])[0]


def standings(rows: list[BackTest]) -> list[Standing]:
    """Return rows as they stand."""
    open_ids = [row.id for row in rows if row.status == "requested"]
    progress = (
        {one.back_test_id: one for one in BackTestProgress.objects.filter(back_test_id__in=open_ids)}
        if open_ids
        else {}
    )
    return [_standing(row, progress.get(row.id)) for row in rows]


def report(row: BackTest) -> dict[str, Any]:
    """Return what a back-test found (docs/governance.md says what stands in it). Raises NoReport."""
    if not row.report_sha256:
        why = {"requested": "is not done yet", "failed": "failed", "cancelled": "was cancelled"}[row.status]
        raise NoReport(f"This back-test {why}; it has no report.")
    found: dict[str, Any] = orjson.loads(get_blob(row.report_sha256))
    return found


def require_reader(caller: Caller) -> None:
    """Raise MayNotBackTest for those who look after nothing in the workspace."""
    if not READERS & caller.roles:
        raise MayNotBackTest(f"Back-tests are for the roles {listed(READERS)}.")


def _standing(row: BackTest, progress: BackTestProgress | None) -> Standing:
    if row.status != "requested":
        return Standing(row=row, phase="", decisions=0, total=0, began_at=None)
    if progress is None:
        return Standing(row=row, phase="queued", decisions=0, total=0, began_at=None)
    return Standing(
        row=row,
        phase=progress.phase,
        decisions=progress.decisions,
        total=progress.total,
        began_at=progress.began_at,
    )
