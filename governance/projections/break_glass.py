"""Read models of break-glass, as functions of each opening's stream."""

from cartrita.eventstore import RecordedEvent, inline
from governance.break_glass import BreakGlassEnded, BreakGlassOpened, BreakGlassReviewed
from governance.models import BreakGlass, GlassReview


@inline(BreakGlassOpened, BreakGlassEnded, BreakGlassReviewed, tables=[BreakGlass])
def project_break_glass(recorded: RecordedEvent) -> None:
    """Show who opened break-glass, for what, why and until when, and who ended it."""
    row = BreakGlass.objects.filter(id=recorded.stream_id)
    match recorded.event:
        case BreakGlassOpened() as event:
            BreakGlass.objects.create(
                id=recorded.stream_id,
                workspace_id=recorded.workspace_id,
                version=recorded.version,
                scope_kind=event.scope_kind,
                scope=event.scope,
                reason=event.reason,
                by=event.by,
                alone=event.alone,
                opened_at=recorded.recorded_at,
                until=event.until,
            )
        case BreakGlassEnded() as event:
            row.update(
                version=recorded.version,
                ended_at=recorded.recorded_at,
                ended_by=event.by,
                ended_note=event.note,
            )
        case _:
            row.update(version=recorded.version)


@inline(BreakGlassReviewed, tables=[GlassReview])
def project_glass_reviews(recorded: RecordedEvent) -> None:
    """Show which acts a person has looked at."""
    if isinstance(recorded.event, BreakGlassReviewed):
        event = recorded.event
        GlassReview.objects.bulk_create(
            GlassReview(
                id=decision_id,
                glass_id=recorded.stream_id,
                workspace_id=recorded.workspace_id,
                by=event.by,
                own=decision_id in event.own,
                note=event.note,
                reviewed_at=recorded.recorded_at,
            )
            for decision_id in event.decisions
        )
