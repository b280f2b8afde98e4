"""Which attached documents an answer was given without, because they waited for approval."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from cartrita.eventstore import RecordedEvent, load, unseal_or_empty
from cartrita.orchestrator.assignment import Assignment
from retrieval import document as documents
from retrieval.queries import in_scope
from tasks_app.run import ActDecided


def looked_at(run: Sequence[RecordedEvent]) -> datetime | None:
    """Return when a run last was about to look into documents, by its events; None before it did anything.

    A run that did not search counts from its first act: it found nothing to search in.
    """
    acts = [(each.recorded_at, each.event) for each in run if isinstance(each.event, ActDecided)]
    searches = [at for at, act in acts if act.act == "retrieval" and act.permitted]
    if searches:
        return searches[-1]
    return acts[0][0] if acts else None


def titles_unread(work: Assignment, run_id: UUID) -> list[str]:
    """Return the titles of attached documents that were held when this run looked, in the message's order.

    Depends on recorded events alone, so that whoever posts the reply writes the same.
    """
    rows = in_scope(workspace_id=work.workspace_id, session_id=work.session_id)
    once_held = rows.filter(id__in=work.attachments, approval_id__isnull=False).in_bulk()
    if not once_held:
        return []
    at = looked_at(load(run_id))
    titles = []
    for document_id in dict.fromkeys(work.attachments):
        row = once_held.get(document_id)
        if row is not None and _status(load(document_id), at) == "held":
            titles.append(unseal_or_empty(row.key_id, row.title) or str(document_id))
    return titles


def note(titles: Sequence[str]) -> str:
    """Return the last paragraph of a reply that was given without these documents; empty for none."""
    return f"\n\nNot read, because approval is still awaited: {', '.join(titles)}." if titles else ""


def _status(events: Sequence[RecordedEvent], at: datetime | None) -> str:
    known = (each.event for each in events if at is None or each.recorded_at <= at)
    return documents.fold(known).status
