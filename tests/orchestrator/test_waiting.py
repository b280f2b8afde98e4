"""What becomes of an act that waits, by what its approval has come to and by the clock."""

import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import connection, transaction

from cartrita.eventstore import Append, Context, StreamMoved
from cartrita.orchestrator.waiting import (
    Awaits,
    GoesOn,
    Leave,
    Pauses,
    Refused,
    leave_of,
    outlook,
    voiding,
    without_effect,
)
from governance.approval import Approval, ApprovalVoided
from governance.canonical import fingerprint
from governance.commands import approvals as commands
from governance.decide import DecisionRequest, Verdict
from governance.models import Approval as ApprovalRow
from governance.queries.approvals import state as state_of
from governance.step import take_step
from tasks_app.run import ActDecided
from tests.accounts.people import someone
from tests.databases import Database
from tests.governance.approvals import as_caller
from tests.governance.approvals import waiting as request_waiting

APPROVAL, WORKSPACE = UUID(int=7), UUID(int=8)
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
ARGUMENTS = {"text": "hello"}
GRANTED = Approval(
    status="granted",
    scope="once",
    subject_kind="tool_call",
    tool="send_text",
    definition_hash="d" * 64,
    arguments_hash=fingerprint(ARGUMENTS),
    rule="ask-first",
    rule_hash="r" * 64,
)
HASHES = {"ask-first": "r" * 64, "ask-twice": "t" * 64}


def waits(**more: Any) -> ActDecided:
    return ActDecided(
        step=1,
        attempt=1,
        act="tool_call",
        subject="send_text",
        decision_id=UUID(int=9),
        outcome="escalate",
        rule="ask-first",
        permitted=False,
        **more,
    )


def leave(state: Approval, words: str = "") -> Leave:
    return Leave(APPROVAL, 3, state, words)


def request(**more: Any) -> DecisionRequest:
    return DecisionRequest(
        **{
            "subject_kind": "tool_call",
            "workspace_id": WORKSPACE,
            "at": NOW,
            "tool": "send_text",
            "definition_hash": "d" * 64,
            "arguments": ARGUMENTS,
            **more,
        }
    )


def verdict(outcome: Any, rule: str, grants: tuple[UUID, ...] = ()) -> Verdict:
    return Verdict(outcome=outcome, rule=rule, reason="so", policy_hash="p", evaluated=(), grants=grants)


class TestOutlook:
    @pytest.mark.parametrize(
        ("state", "found"),
        [
            (Approval(status="waiting"), Awaits(APPROVAL)),
            (GRANTED, GoesOn()),
            (Approval(status="used"), GoesOn()),
            (Approval(status="void", void_cause="rule_changed"), GoesOn()),
            (
                Approval(status="replaced", replacement={"a": 1}, ended_by=("user:x",)),
                GoesOn({"a": 1}, "user:x"),
            ),
            (Approval(status="expired"), Refused("approval_expired", "Nobody approved it in time.")),
            (
                Approval(status="void", void_cause="cancelled"),
                Refused("approval_cancelled", "The request for approval was withdrawn."),
            ),
            (Approval(status="denied"), Refused("approval_denied", "A reviewer said no.")),
        ],
        ids=lambda value: value.status if isinstance(value, Approval) else "",
    )
    def test_follows_the_approval(self, state: Approval, found: Any) -> None:
        assert outlook(waits(approval_id=APPROVAL), leave(state), NOW) == found

    def test_repeats_the_words_of_who_said_no(self) -> None:
        found = outlook(waits(approval_id=APPROVAL), leave(Approval(status="denied"), "Too late."), NOW)
        assert found == Refused("approval_denied", "A reviewer said no: Too late.")

    def test_follows_the_clock(self) -> None:
        until = NOW + timedelta(seconds=1)
        assert outlook(waits(retry_after=until), None, NOW) == Pauses(until)
        assert outlook(waits(retry_after=until), None, until) == GoesOn()


class TestWithoutEffect:
    def voided(self, state: Approval, *decided: tuple[DecisionRequest, Verdict], **hashes: str) -> list[Any]:
        appends = voiding(
            leave(state),
            decided,
            rule_hashes=HASHES | hashes,
            context=Context(workspace_id=WORKSPACE),
        )
        return [(one.stream_id, one.expected_version, *one.events) for one in appends]

    def test_is_nothing_where_the_grant_let_the_act_through(self) -> None:
        assert self.voided(GRANTED, (request(), verdict("allow", "rest", (APPROVAL,)))) == []

    @pytest.mark.parametrize("outcome", ["escalate", "throttle"])
    def test_is_nothing_while_another_rule_has_to_be_satisfied_too(self, outcome: str) -> None:
        assert self.voided(GRANTED, (request(), verdict(outcome, "ask-twice"))) == []

    @pytest.mark.parametrize(
        ("now", "hashes", "said", "cause"),
        [
            ({"definition_hash": "e" * 64}, {}, ("escalate", "ask-first"), "tool_changed"),
            ({"arguments": {"text": "bye"}}, {}, ("escalate", "ask-first"), "arguments_changed"),
            ({}, {"ask-first": "s" * 64}, ("escalate", "ask-first"), "rule_changed"),
            ({}, {"ask-first": "s" * 64}, ("allow", "rest"), "rule_changed"),
            ({}, {}, ("deny", "never"), "not_covered"),
            ({}, {}, ("allow", "rest"), "not_covered"),
        ],
    )
    def test_voids_a_grant_and_says_what_changed(
        self, now: Any, hashes: dict[str, str], said: tuple[str, str], cause: Any
    ) -> None:
        decided = (request(**now), verdict(*said))
        assert self.voided(GRANTED, decided, **hashes) == [
            (APPROVAL, 3, ApprovalVoided(cause=cause, detail=said[1]))
        ]

    def test_judges_the_grant_by_its_own_act(self) -> None:
        speech = (request(subject_kind="message_out", tool="", definition_hash=""), verdict("allow", "rest"))
        act = (request(), verdict("throttle", "ask-twice"))
        assert self.voided(GRANTED, speech, act) == []
        assert self.voided(GRANTED, (speech[0], verdict("deny", "never"))) == [
            (APPROVAL, 3, ApprovalVoided(cause="not_covered", detail="never"))
        ]

    def test_leaves_a_grant_for_the_session_to_later_acts(self) -> None:
        state = replace(GRANTED, scope="session")
        assert self.voided(state, (request(), verdict("deny", "never"))) == []

    def test_waits_for_a_person_who_is_faster(self, database: Database) -> None:
        ann = someone()
        ben = someone("ben@example.org", workspace_id=ann.workspace_id, roles=("member", "reviewer"))
        approval_id = request_waiting(ann)
        commands.approve(approval_id=approval_id, caller=as_caller(ben))
        known = leave_of(approval_id)
        row = ApprovalRow.objects.get(id=approval_id)
        context = Context(workspace_id=row.workspace_id, session_id=row.session_id, key_id=row.key_id)
        decided = [(request(workspace_id=row.workspace_id), verdict("deny", "never"))]
        ended: list[str] = []

        def then(_: object) -> list[Append]:
            return without_effect(known, decided, rule_hashes=HASHES, context=context)

        def step() -> None:
            try:
                take_step(context=context, then=then)
                ended.append("voided")
            except StreamMoved:
                ended.append("decided anew")
            finally:
                connection.close()

        stepping = threading.Thread(target=step)
        with transaction.atomic():
            ApprovalRow.objects.select_for_update().get(id=approval_id)
            stepping.start()
            while not _somebody_waits():
                assert stepping.is_alive()
                time.sleep(0.01)
            commands.comment(approval_id=approval_id, caller=as_caller(ben), text="Wait.")
        stepping.join()
        assert ended == ["decided anew"]
        assert state_of(approval_id).status == "granted"


def _somebody_waits() -> bool:
    with connection.cursor() as cursor:
        # Within a transaction the activity stays as it was first seen, without connections opened since.
        cursor.execute("select pg_stat_clear_snapshot()")
        cursor.execute(
            "select exists (select from pg_locks join pg_stat_activity using (pid) "
            "where not granted and datname = current_database())"
        )
        (found,) = cursor.fetchone()
    return bool(found)
