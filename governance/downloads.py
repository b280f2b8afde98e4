"""Files that the console and REST hand out."""

from uuid import UUID

from django.http import HttpResponse


def capsule_answer(decision_id: UUID, content: bytes) -> HttpResponse:
    """Answer a request with the capsule of a decision, as `cartrita-verify` reads it."""
    return HttpResponse(
        content,
        content_type="application/json",
        headers={"Content-Disposition": f'attachment; filename="decision-{decision_id}.json"'},
    )
