"""What an act may add to what a session and its person have read."""

from uuid import UUID

from cartrita.orchestrator.assignment import Assignment
from retrieval.queries import in_scope

UNTRUSTED = "untrusted"
CODE_OUTPUT = "code-output"

# What these tools return is text of documents.
READS_DOCUMENTS = frozenset({"search_documents", "read_document"})
RUNS_CODE = frozenset({"execute_python"})


def labels_of_search(work: Assignment) -> frozenset[str]:
    """Return the labels of all documents that a search for this message may find in."""
    return _labels(work, work.attachments)


def labels_of_call(name: str, work: Assignment) -> frozenset[str]:
    """Return the labels that a call of the tool may add."""
    if name in RUNS_CODE:
        return frozenset({CODE_OUTPUT})
    if name in READS_DOCUMENTS:
        return _labels(work, ()) | {UNTRUSTED}
    return frozenset({UNTRUSTED})


def _labels(work: Assignment, only: tuple[UUID, ...]) -> frozenset[str]:
    rows = in_scope(workspace_id=work.workspace_id, session_id=work.session_id)
    if only:
        rows = rows.filter(id__in=only)
    return frozenset(label for labels in rows.values_list("labels", flat=True) for label in labels)
