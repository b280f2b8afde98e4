"""A back-test: what was asked, and how it ended. Pure: events, their fold, what may follow.

How far it has come is no fact, and stands in a row beside the log.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import ClassVar, Literal
from uuid import UUID

from pydantic import Field

from cartrita.accounts.console import CONSOLE_ROLES
from cartrita.errors import BadInput, CartritaError, Conflict, NotAllowed, NotFound
from cartrita.eventstore.types import Event

Status = Literal["none", "requested", "completed", "failed", "cancelled"]
Source = Literal["draft", "known", "text"]

# Who may start one, and who may stop one.
REQUESTERS: frozenset[str] = frozenset({"admin", "policy_author", "reviewer", "auditor"})
CANCELLERS: frozenset[str] = REQUESTERS | {"operator"}
READERS: frozenset[str] = CONSOLE_ROLES
# How many of a workspace may wait at once: other workspaces wait behind them.
MOST_OPEN = 20


class BackTestRequested(Event):
    """Somebody asked what a set of rules would have decided over the decisions of the workspace.

    The set's canonical text is the blob `policy_hash`; `source` says where it came from: the draft, a set
    that the workspace knows (proposed, watched or in force once), or a text. Decisions that were recorded
    from `since` to before `until` count, all where they are None, and of `only_session` alone where given.
    """

    type_name: ClassVar[str] = "governance.BackTestRequested"

    policy: str
    policy_hash: str
    source: Source
    by: str
    since: datetime | None = None
    until: datetime | None = None
    only_session: UUID | None = None

    def named_blobs(self) -> Iterable[str]:
        """Return the blob of the set's text."""
        return (self.policy_hash,)


class BackTestCompleted(Event):
    """The decisions were decided again. `report_sha256` is the blob with the report: ids, rules and counts.

    `up_to` is the log's position up to which decisions were looked at. `differences` is how many of them
    come out otherwise under their own set: unless it is 0, the report is not to be trusted. `changed` ones
    come out otherwise under the tested set, in so many `sessions_changed`.
    """

    type_name: ClassVar[str] = "governance.BackTestCompleted"

    report_sha256: str
    up_to: int = Field(ge=0)
    decisions: int = Field(ge=0)
    not_redecidable: int = Field(ge=0)
    differences: int = Field(ge=0)
    changed: int = Field(ge=0)
    sessions_changed: int = Field(ge=0)
    milliseconds: int = Field(ge=0)

    def named_blobs(self) -> Iterable[str]:
        """Return the blob of the report."""
        return (self.report_sha256,)


class BackTestFailed(Event):
    """The back-test cannot be done; the message says why."""

    type_name: ClassVar[str] = "governance.BackTestFailed"

    code: str
    message: str


class BackTestCancelled(Event):
    """Somebody stopped the back-test before it was done."""

    type_name: ClassVar[str] = "governance.BackTestCancelled"

    by: str


class UnknownBackTest(NotFound):
    """No back-test with that id exists for this caller."""

    code: ClassVar[str] = "unknown_back_test"


class BackTestEnded(Conflict):
    """The back-test has ended: nothing can be done with it any more but read it."""

    code: ClassVar[str] = "back_test_ended"


class NoReport(Conflict):
    """The back-test has no report: it runs still, failed or was cancelled."""

    code: ClassVar[str] = "no_report"


class TooManyBackTests(CartritaError):
    """So many back-tests of the workspace have not ended; they are carried out one after the other."""

    code: ClassVar[str] = "too_many_back_tests"
    status: ClassVar[int] = 429


class NoHistory(BadInput):
    """There is no decision to decide again."""

    code: ClassVar[str] = "no_history"


class MayNotBackTest(NotAllowed):
    """The caller holds no role that may do this to back-tests."""

    code: ClassVar[str] = "may_not_back_test"


@dataclass(frozen=True, slots=True, kw_only=True)
class BackTest:
    """A back-test as its events say; `asked` and `done` are the events themselves."""

    status: Status = "none"
    asked: BackTestRequested | None = None
    done: BackTestCompleted | None = None
    version: int = 0


def fold(events: Iterable[Event]) -> BackTest:
    """Return the state that events make."""
    state = BackTest()
    for event in events:
        state = evolve(state, event)
    return state


def evolve(state: BackTest, event: Event) -> BackTest:
    """Return the state after one more event."""
    state = replace(state, version=state.version + 1)
    match event:
        case BackTestRequested():
            return replace(state, status="requested", asked=event)
        case BackTestCompleted():
            return replace(state, status="completed", done=event)
        case BackTestFailed():
            return replace(state, status="failed")
        case BackTestCancelled():
            return replace(state, status="cancelled")
        case _:
            return state


def cancel(state: BackTest, *, by: str, roles: frozenset[str]) -> list[Event]:
    """Stop a back-test; nothing is recorded where it was stopped before.

    Raises UnknownBackTest, MayNotBackTest, BackTestEnded.
    """
    if not CANCELLERS & roles:
        raise MayNotBackTest(f"Stopping a back-test needs one of the roles {listed(CANCELLERS)}.")
    if state.status == "none":
        raise UnknownBackTest("There is no such back-test.", field="back_test_id")
    if state.status == "cancelled":
        return []
    if state.status != "requested":
        raise BackTestEnded(f"The back-test is {state.status} already; there is nothing to stop.")
    return [BackTestCancelled(by=by)]


def check_range(since: datetime | None, until: datetime | None) -> None:
    """Raise BadInput for times without a zone, and for an end that is not after the beginning."""
    for name, at in (("since", since), ("until", until)):
        if at is not None and at.tzinfo is None:
            raise BadInput(
                f"{name} has no time zone; write one, such as 2026-01-31T00:00:00Z or +01:00.", field=name
            )
    if since is not None and until is not None and until <= since:
        raise BadInput("until is not after since; give the later time as until.", field="until")


def listed(roles: Iterable[str]) -> str:
    """Return roles as a part of a sentence."""
    return ", ".join(sorted(roles))
