"""The read model of back-tests, as a function of each one's stream."""

from cartrita.eventstore import RecordedEvent, inline
from governance.backtest.back_test import (
    BackTestCancelled,
    BackTestCompleted,
    BackTestFailed,
    BackTestRequested,
)
from governance.models import BackTest


@inline(BackTestRequested, BackTestCompleted, BackTestFailed, BackTestCancelled, tables=[BackTest])
def project_back_tests(recorded: RecordedEvent) -> None:
    """Show what was asked, and how it ended."""
    row = BackTest.objects.filter(id=recorded.stream_id)
    common = {"version": recorded.version, "ended_at": recorded.recorded_at}
    match recorded.event:
        case BackTestRequested() as event:
            BackTest.objects.create(
                id=recorded.stream_id,
                workspace_id=recorded.workspace_id,
                version=recorded.version,
                policy=event.policy,
                policy_hash=event.policy_hash,
                source=event.source,
                by=event.by,
                since=event.since,
                until=event.until,
                only_session=event.only_session,
                status="requested",
                requested_at=recorded.recorded_at,
            )
        case BackTestCompleted() as event:
            row.update(
                status="completed",
                report_sha256=event.report_sha256,
                decisions=event.decisions,
                not_redecidable=event.not_redecidable,
                differences=event.differences,
                changed=event.changed,
                sessions_changed=event.sessions_changed,
                milliseconds=event.milliseconds,
                **common,
            )
        case BackTestFailed() as event:
            row.update(status="failed", code=event.code, message=event.message, **common)
        case BackTestCancelled() as event:
            row.update(status="cancelled", ended_by=event.by, **common)
        case _:
            pass
