"""What an act may add to what a session and its person have read."""

from collections.abc import Iterable
from uuid import UUID

from cartrita.tools.registry import tool
from cartrita.tools.runner import PreparedTool
from governance.candidates import Candidates
from governance.detectors import LABELS, labels_of
from retrieval.queries import candidates

UNTRUSTED = "untrusted"
CODE_OUTPUT = "code-output"
# On acts for a program that wrote system messages of its own: they are the caller's data, and rules may ask.
CALLER_SYSTEM = "caller-system"

RUNS_CODE = frozenset({"execute_python"})


def labels_of_call(name: str) -> frozenset[str]:
    """Return the labels that a call of the tool may add besides those of documents that it reads."""
    own = frozenset({CODE_OUTPUT if name in RUNS_CODE else UNTRUSTED})
    return own | LABELS if tool(name).outside else own


def labels_read(possible: frozenset[str], name: str, findings: Iterable[str]) -> frozenset[str]:
    """Return the labels that a call added, of those that it might, by what was found in what it gave."""
    certain = possible - LABELS if tool(name).outside else possible
    return certain | labels_of(findings)


def candidates_of_call(prepared: PreparedTool) -> Candidates:
    """Return the documents that a call may read: all in its scope, or those that its arguments name."""
    request = prepared.decision_request
    if request.subject_kind != "retrieval":
        return Candidates()
    arguments = request.arguments
    named = [arguments["document_id"]] if "document_id" in arguments else arguments.get("documents")
    return candidates(
        workspace_id=request.workspace_id,
        session_id=request.session_id,
        document_ids=[UUID(each) for each in named] if named else None,
    )
