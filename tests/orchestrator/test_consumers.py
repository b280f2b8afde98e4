"""What the channel of a session shows of the apps below the orchestrator."""

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from cartrita.eventstore import Event
from cartrita.orchestrator.consumers import INTERNAL_EVENTS
from governance.approval import (
    ApprovalDenied,
    ApprovalExpired,
    ApprovalGranted,
    ApprovalNoted,
    ApprovalReplaced,
    ApprovalRequested,
    ApprovalUsed,
    ApprovalVoided,
)
from governance.decision import DecisionMade
from retrieval.document import (
    DocumentChunked,
    DocumentEmbedded,
    DocumentFailed,
    DocumentReceived,
    DocumentRemoved,
    RetrievalPerformed,
    ScoredPassage,
)
from sessions_app.channel import describe
from tasks_app.plan import PlanHeldBack
from tasks_app.run import ActDecided

ID, OTHER = UUID(int=7), UUID(int=8)


def shown(event: Event) -> dict[str, Any] | None:
    recorded: Any = SimpleNamespace(event=event, type_name=event.type_name, stream_id=ID, sealed={})
    return describe(recorded)


class TestDescribe:
    @pytest.mark.parametrize(
        ("event", "values"),
        [
            (
                DocumentReceived(
                    title="Notes",
                    media_type="text/plain",
                    size=5,
                    blob="b" * 64,
                    fingerprint="f" * 64,
                    collection_id=ID,
                    owner_id=ID,
                ),
                {"title": "Notes", "media_type": "text/plain", "size": 5},
            ),
            (
                DocumentChunked(parser="p", chunker="c", text_blob="t", characters=9, pages=2, chunks=1),
                {"characters": 9, "pages": 2, "chunks": 1},
            ),
            (DocumentEmbedded(model="m", dimension=384, chunks=1), {}),
            (
                DocumentFailed(stage="parse", code="damaged", message="x" * 300),
                {"stage": "parse", "code": "damaged", "message": "x" * 300},
            ),
            (DocumentRemoved(), {}),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_names_the_document_of_each_step(self, event: Event, values: dict[str, Any]) -> None:
        assert shown(event) == {"document_id": str(ID), **values}

    def test_shows_how_much_a_search_found_but_not_what(self) -> None:
        passage = ScoredPassage(chunk_id=ID, document_id=ID, lexical=1, dense=1, score=1)
        event = RetrievalPerformed(
            retrieval_id=ID,
            query_text="a secret",
            query_embedding="AAAA",
            k_initial=10,
            retrieval_latency_ms=3.5,
            timings_ms={},
            context_tokens_before=1,
            context_tokens_after=1,
            documents_retrieved=(ID,),
            pipeline="convex",
            passages=(passage, passage),
        )
        assert shown(event) == {"retrieval_id": str(ID), "documents": 1, "passages": 2, "latency_ms": 3.5}

    @pytest.mark.parametrize("event_class", INTERNAL_EVENTS)
    def test_leaves_out_what_is_for_auditors(self, event_class: type[Event]) -> None:
        recorded: Any = SimpleNamespace(event=None, type_name=event_class.type_name, stream_id=ID, sealed={})
        assert describe(recorded) is None


def made(**values: Any) -> Event:
    """Return a decision of which nothing else is known."""
    anything: Any = DecisionMade
    decision: Event = anything.model_construct(**values)
    return decision


class TestUnderGlassEvent:
    @pytest.mark.parametrize(
        ("outcome", "unbroken", "let_pass"),
        [("audit", "escalate", True), ("allow", "", False), ("deny", "escalate", False)],
    )
    def test_tells_which_break_glass_was_in_force(self, outcome: Any, unbroken: Any, let_pass: bool) -> None:
        event = made(glass_id=OTHER, outcome=outcome, unbroken_outcome=unbroken)
        assert shown(event) == {"decision_id": str(ID), "glass_id": str(OTHER), "let_pass": let_pass}

    def test_leaves_out_every_other_decision(self) -> None:
        assert shown(made(glass_id=None, outcome="allow")) is None


AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
REQUEST = ApprovalRequested(
    decision_id=ID,
    requester_id=ID,
    subject_kind="tool_call",
    agent="assistant",
    tool="execute_python",
    model="",
    definition_hash="d" * 64,
    safety_level="caution",
    arguments={"code": "a secret"},
    arguments_bytes=20,
    arguments_hash="a" * 64,
    rule="python-needs-a-reviewer",
    rule_hash="r" * 64,
    policy_hash="p" * 64,
    reason="A reviewer approves Python code before it runs.",
    approver_roles=("reviewer",),
    quorum=1,
    scopes=("once", "session"),
    expires_at=AT,
)


def decided(**more: Any) -> ActDecided:
    return ActDecided(
        step=1,
        attempt=1,
        subject="s",
        decision_id=ID,
        rule="r",
        permitted="approval_id" not in more and "retry_after" not in more,
        **{"act": "tool_call", "outcome": "allow", **more},
    )


class TestApprovals:
    def test_are_shown_without_their_arguments(self) -> None:
        found = shown(REQUEST)
        assert found == {
            "approval_id": str(ID),
            "status": "waiting",
            "kind": "tool_call",
            "agent": "assistant",
            "tool": "execute_python",
            "model": "",
            "rule": "python-needs-a-reviewer",
            "sentence": "A reviewer approves Python code before it runs.",
            "requester_id": str(ID),
            "edited_by": "",
            "approver_roles": ["reviewer"],
            "quorum": 1,
            "scopes": ["once", "session"],
            "expires_at": "2026-01-02T03:04:05.000000Z",
        }

    @pytest.mark.parametrize(
        ("event", "values"),
        [
            (
                ApprovalGranted(by=("user:x",), scope="pattern", own=False, pattern={"code": "a secret"}),
                {
                    "status": "granted",
                    "by": ["user:x"],
                    "scope": "pattern",
                    "own": False,
                    "valid_until": None,
                },
            ),
            (ApprovalDenied(by="user:x"), {"status": "denied", "by": ["user:x"]}),
            (ApprovalExpired(), {"status": "expired"}),
            (
                ApprovalReplaced(by="user:x", arguments={"code": "a secret"}),
                {"status": "replaced", "by": ["user:x"]},
            ),
            (
                ApprovalVoided(cause="rule_changed", detail="r"),
                {"status": "void", "cause": "rule_changed", "detail": "r"},
            ),
            (ApprovalUsed(decision_id=ID), {"status": "used", "decision_id": str(ID)}),
            (
                ApprovalNoted(kind="question", by="user:x", text="a secret"),
                {"kind": "question", "by": "user:x"},
            ),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_show_what_became_of_them(self, event: Event, values: dict[str, Any]) -> None:
        assert shown(event) == {"approval_id": str(ID), **values}


class TestPhase:
    @pytest.mark.parametrize(
        ("event", "phase"),
        [
            (decided(), ""),
            (decided(approval_id=ID), "waiting for approval"),
            (decided(approval_id=ID, act="message_out"), "waiting for review"),
            (decided(retry_after=AT), "waiting (throttled until 03:04:05 UTC)"),
            (
                PlanHeldBack(
                    decision_id=ID, attempt=1, outcome="escalate", rule="r", reason="", approval_id=ID
                ),
                "waiting for approval",
            ),
        ],
    )
    def test_says_what_is_waited_for(self, event: Event, phase: str) -> None:
        found = shown(event)
        assert found is not None
        assert found["phase"] == phase
