"""Approvals on the real database: votes, races, grants, expiry, erasure."""

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from io import StringIO
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.utils import timezone

from cartrita.accounts.queries import people_with_roles
from cartrita.errors import CartritaError
from cartrita.eventstore import (
    Append,
    Context,
    Event,
    append,
    create_data_key,
    erase_key,
    erase_subject,
    load,
    new_id,
    rebuild,
)
from cartrita.tools.runner import InvalidParameters
from governance import approval as approvals
from governance.approval import (
    ApprovalEnded,
    ApprovalGranted,
    ApprovalNotFound,
    ApprovalUsed,
    ApprovalVoided,
    BadPattern,
    NotAnApprover,
    OwnRequest,
)
from governance.commands import approvals as commands
from governance.decide import GrantFact
from governance.models import Approval
from governance.queries import approvals as queries
from tests.accounts.people import Person, someone
from tests.databases import Database
from tests.governance.approvals import ARGUMENTS, RULE_HASH, Terms, as_caller, waiting

pytestmark = pytest.mark.flow

EVERY_SCOPE = Terms(scopes=("once", "session", "pattern"))


@pytest.fixture
def ann(database: Database) -> Person:
    return someone()


@pytest.fixture
def ben(ann: Person) -> Person:
    return someone("ben@example.org", workspace_id=ann.workspace_id, roles=("member", "reviewer"))


@pytest.fixture
def cleo(ann: Person) -> Person:
    return someone("cleo@example.org", workspace_id=ann.workspace_id, roles=("member", "admin"))


def grants(approval_id: UUID, *, at: datetime | None = None, **other: Any) -> list[GrantFact]:
    row = Approval.objects.get(id=approval_id)
    asked: dict[str, Any] = {
        "workspace_id": row.workspace_id,
        "session_id": row.session_id,
        "kind": "tool_call",
        "tool": "execute_python",
        "definition_hash": "d" * 64,
        "safety_level": "caution",
        "arguments": ARGUMENTS,
        "rule_hashes": {"python-needs-a-person": RULE_HASH},
        "at": at or timezone.now(),
        "requester_id": row.requester_id,
        **other,
    }
    with transaction.atomic():
        return queries.matching_grants(**asked)


def use(approval_id: UUID) -> None:
    row = Approval.objects.get(id=approval_id)
    context = Context(workspace_id=row.workspace_id, session_id=row.session_id, key_id=row.key_id)
    append(Append(approval_id, row.version, [ApprovalUsed(decision_id=new_id())], context))


def vote(approval_id: UUID, person: Person) -> object:
    return commands.approve(approval_id=approval_id, caller=as_caller(person))


def at_once(*acts: Callable[[], object]) -> list[str]:
    """Carry out acts in threads that start together; return what each came to."""
    together = threading.Barrier(len(acts))
    answers: list[str] = []

    def carry_out(act: Callable[[], object]) -> None:
        together.wait()
        try:
            act()
            answers.append("done")
        except CartritaError as error:
            answers.append(error.code)
        finally:
            connection.close()

    threads = [threading.Thread(target=carry_out, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == len(acts)
    return answers


def ends(approval_id: UUID) -> list[type[Event]]:
    """Return the events that ended the waiting."""
    kinds = (
        ApprovalGranted,
        approvals.ApprovalDenied,
        approvals.ApprovalExpired,
        approvals.ApprovalReplaced,
    )
    return [type(one.event) for one in load(approval_id) if isinstance(one.event, kinds)]


class TestApprove:
    def test_grants_and_tells_the_second_who_was_first(self, ann: Person, ben: Person, cleo: Person) -> None:
        approval_id = waiting(ann)
        recorded = commands.approve(approval_id=approval_id, caller=as_caller(ben))
        assert isinstance(recorded[-1].event, ApprovalGranted)
        for late in (commands.approve, commands.deny):
            with pytest.raises(ApprovalEnded, match=r"^Ben approved this request at "):
                late(approval_id=approval_id, caller=as_caller(cleo))
        row = Approval.objects.get(id=approval_id)
        assert (row.status, row.own, row.version) == ("granted", False, 3)
        assert [vote["by"] for vote in row.votes] == [f"user:{ben.id}"]

    def test_refuses_the_requester_by_any_token_once_a_second_person_may(
        self, ann: Person, ben: Person, cleo: Person
    ) -> None:
        from cartrita.accounts.queries import caller_of_secret

        mine = waiting(ben)
        program = caller_of_secret(ben.token("read", "write"), now=timezone.now())
        assert program is not None
        for me in (as_caller(ben), program[1]):
            with pytest.raises(OwnRequest):
                commands.approve(approval_id=mine, caller=me)

    def test_marks_an_own_yes_while_nobody_else_may(self, ann: Person, ben: Person) -> None:
        approval_id = waiting(ben)
        commands.approve(approval_id=approval_id, caller=as_caller(ben))
        assert Approval.objects.get(id=approval_id).own
        [grant] = grants(approval_id)
        assert grant.own

    def test_does_not_count_who_may_not_sign_in(self, ann: Person, ben: Person, cleo: Person) -> None:
        roles = ("reviewer", "admin")
        assert people_with_roles(ann.workspace_id, roles) == {ben.id, cleo.id}
        cleo.user.is_active = False
        cleo.user.save()
        assert people_with_roles(ann.workspace_id, roles) == {ben.id}
        assert people_with_roles(ann.workspace_id, ()) == frozenset()

    def test_is_for_the_approvers_of_the_workspace(self, ann: Person, ben: Person) -> None:
        approval_id = waiting(ann)
        with pytest.raises(NotAnApprover):
            commands.approve(approval_id=approval_id, caller=as_caller(ann))
        member = someone("dan@example.org", workspace_id=ann.workspace_id)
        stranger = someone("eve@example.org", roles=("member", "admin"))
        for person in (member, stranger):
            with pytest.raises(ApprovalNotFound):
                commands.approve(approval_id=approval_id, caller=as_caller(person))

    def test_records_nothing_when_the_command_comes_again(self, ann: Person, ben: Person) -> None:
        approval_id, command_id = waiting(ann), uuid4()
        again: Callable[[], list[Any]] = lambda: commands.approve(  # noqa: E731
            approval_id=approval_id, caller=as_caller(ben), command_id=command_id
        )
        assert len(again()) == 2
        assert again() == []
        assert len(load(approval_id)) == 3

    def test_of_two_at_once_grants_one(self, ann: Person, ben: Person, cleo: Person) -> None:
        for _ in range(5):
            approval_id = waiting(ann)
            answers = at_once(*(partial(vote, approval_id, person) for person in (ben, cleo)))
            assert sorted(answers) == ["approval_ended", "done"]
            assert ends(approval_id) == [ApprovalGranted]

    def test_of_two_at_once_counts_both_for_a_quorum(self, ann: Person, ben: Person, cleo: Person) -> None:
        approval_id = waiting(ann, terms=Terms(quorum=2))
        answers = at_once(*(partial(vote, approval_id, person) for person in (ben, cleo)))
        assert answers == ["done", "done"]
        assert ends(approval_id) == [ApprovalGranted]

    def test_ends_one_way_beside_everything_else(self, ann: Person, ben: Person, cleo: Person) -> None:
        for _ in range(3):
            approval_id = waiting(ann)
            at_once(
                partial(vote, approval_id, ben),
                partial(commands.deny, approval_id=approval_id, caller=as_caller(cleo)),
                partial(
                    commands.edit_arguments,
                    approval_id=approval_id,
                    caller=as_caller(cleo),
                    arguments={"code": "2"},
                ),
                partial(commands.expire_due, timezone.now() + timedelta(hours=2)),
            )
            assert len(ends(approval_id)) == 1

    def test_needs_the_quorum_of_different_people(self, ann: Person, ben: Person, cleo: Person) -> None:
        approval_id = waiting(ann, terms=Terms(quorum=2))
        commands.approve(approval_id=approval_id, caller=as_caller(ben))
        assert commands.approve(approval_id=approval_id, caller=as_caller(ben)) == []
        assert not grants(approval_id)
        commands.approve(approval_id=approval_id, caller=as_caller(cleo))
        assert len(grants(approval_id)) == 1


class TestGrants:
    def test_for_once_cover_the_very_act_and_no_other(
        self, ann: Person, ben: Person, subtests: pytest.Subtests
    ) -> None:
        approval_id = waiting(ann)
        commands.approve(approval_id=approval_id, caller=as_caller(ben))
        [grant] = grants(approval_id)
        assert (grant.approval_id, grant.rule, grant.scope) == (approval_id, "python-needs-a-person", "once")
        others: tuple[dict[str, Any], ...] = (
            {"arguments": {"code": "print(2)"}},
            {"session_id": new_id()},
            {"session_id": None},
            {"workspace_id": new_id()},
            {"tool": "http_fetch"},
            {"kind": "message_out"},
            {"definition_hash": "e" * 64},
            {"rule_hashes": {"python-needs-a-person": "c" * 64}},
            {"rule_hashes": {"another": RULE_HASH}},
            {"rule_hashes": {}},
        )
        for other in others:
            with subtests.test(**other):
                assert not grants(approval_id, **other)
        use(approval_id)
        assert not grants(approval_id)

    def test_for_a_session_cover_it_until_they_end(self, ann: Person, ben: Person) -> None:
        approval_id = waiting(ann, terms=EVERY_SCOPE)
        until = timezone.now() + timedelta(minutes=5)
        commands.approve(approval_id=approval_id, caller=as_caller(ben), scope="session", valid_until=until)
        use(approval_id)
        assert grants(approval_id, arguments={"code": "print(2)"})
        assert not grants(approval_id, session_id=new_id())
        assert not grants(approval_id, at=until)
        assert not grants(approval_id, safety_level="restricted")
        assert Approval.objects.get(id=approval_id).uses == 1
        commands.withdraw(approval_id=approval_id, caller=as_caller(ben))
        assert not grants(approval_id)

    def test_for_a_pattern_cover_what_fits_in_the_workspace(self, ann: Person, ben: Person) -> None:
        approval_id = waiting(ann, terms=EVERY_SCOPE)
        until = timezone.now() + timedelta(days=1)
        with pytest.raises(BadPattern):
            commands.approve(
                approval_id=approval_id,
                caller=as_caller(ben),
                scope="pattern",
                pattern={"code": "exit(*)"},
                valid_until=until,
            )
        commands.approve(
            approval_id=approval_id,
            caller=as_caller(ben),
            scope="pattern",
            pattern={"code": "print(*)"},
            valid_until=until,
        )
        assert grants(approval_id, arguments={"code": "print(2)"}, session_id=new_id())
        assert not grants(approval_id, arguments={"code": "exit(2)"})
        assert not grants(approval_id, arguments={"code": "print(2)", "timeout": 3})
        assert not grants(approval_id, workspace_id=new_id())
        assert not grants(approval_id, safety_level="restricted")

    def test_are_stated_as_far_as_a_request_holds_them(
        self, ann: Person, ben: Person, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(queries, "MOST_STATED", 2)
        session_id = new_id()
        ids = [waiting(ann, session_id=session_id) for _ in range(3)]
        for approval_id in ids:
            commands.approve(approval_id=approval_id, caller=as_caller(ben))
        assert [grant.approval_id for grant in grants(ids[0])] == sorted(ids[1:])
        use(ids[1])
        use(ids[2])
        assert [grant.approval_id for grant in grants(ids[0])] == ids[:1]


class TestNotes:
    def test_go_between_approver_and_requester(self, ann: Person, ben: Person) -> None:
        approval_id = waiting(ann)
        commands.ask(approval_id=approval_id, caller=as_caller(ben), text="Why?")
        commands.answer(approval_id=approval_id, caller=as_caller(ann), text="A test.")
        commands.comment(approval_id=approval_id, caller=as_caller(ann), text="Thanks.")
        with pytest.raises(NotAnApprover):
            commands.ask(approval_id=approval_id, caller=as_caller(ann), text="And?")
        with pytest.raises(NotAnApprover):
            commands.answer(approval_id=approval_id, caller=as_caller(ben), text="Well.")
        notes = queries.approval(approval_id, as_caller(ben))["notes"]
        assert [(note["kind"], note["text"]) for note in notes] == [
            ("question", "Why?"),
            ("answer", "A test."),
            ("comment", "Thanks."),
        ]

    def test_of_the_requester_leave_room_for_questions(self, ann: Person, ben: Person) -> None:
        approval_id = waiting(ann)
        for _ in range(approvals.MOST_NOTES_OF_REQUESTER):
            commands.comment(approval_id=approval_id, caller=as_caller(ann), text="Please.")
        with pytest.raises(approvals.NoteTooLong):
            commands.comment(approval_id=approval_id, caller=as_caller(ann), text="Please.")
        commands.ask(approval_id=approval_id, caller=as_caller(ben), text="Why?")


class TestEditArguments:
    def test_ends_the_request_and_bars_its_editor_from_the_next(
        self, ann: Person, ben: Person, cleo: Person
    ) -> None:
        approval_id = waiting(ann)
        [replaced] = commands.edit_arguments(
            approval_id=approval_id, caller=as_caller(ben), arguments={"code": "print(3)"}
        )
        state = queries.state(approval_id)
        assert (state.status, state.replacement) == ("replaced", {"code": "print(3)"})
        assert isinstance(replaced.event, approvals.ApprovalReplaced)
        anew = waiting(ann, arguments={"code": "print(3)"}, edited_by=replaced.event.by)
        with pytest.raises(OwnRequest):
            commands.approve(approval_id=anew, caller=as_caller(ben))
        commands.approve(approval_id=anew, caller=as_caller(cleo))

    def test_leaves_the_next_to_who_asked_where_two_people_decide(self, ben: Person, cleo: Person) -> None:
        anew = waiting(cleo, edited_by=f"user:{ben.id}")
        row, now = Approval.objects.get(id=anew), timezone.now()
        for person, may in ((ben, False), (cleo, True)):
            assert queries.may_vote(row, as_caller(person), "approve", now=now) is may
            assert queries.may_vote(row, as_caller(person), "deny", now=now)
        with pytest.raises(OwnRequest):
            commands.approve(approval_id=anew, caller=as_caller(ben))
        commands.approve(approval_id=anew, caller=as_caller(cleo))
        assert not Approval.objects.get(id=anew).own

    @pytest.mark.parametrize(
        ("arguments", "named"),
        [
            ({}, {"code"}),
            ({"code": 5}, {"code"}),
            ({"code": 5, "timeout": "long", "speed": 1}, {"code", "timeout", "speed"}),
        ],
    )
    def test_refuses_what_does_not_fit_the_tool_and_names_each(
        self, arguments: dict[str, Any], named: set[str], ann: Person, ben: Person
    ) -> None:
        approval_id = waiting(ann)
        with pytest.raises(InvalidParameters) as refused:
            commands.edit_arguments(approval_id=approval_id, caller=as_caller(ben), arguments=arguments)
        assert {wrong["parameter"] for wrong in refused.value.details["parameters"]} == named
        assert all(name in refused.value.message for name in named)
        assert queries.state(approval_id).status == "waiting"
        with pytest.raises(NotAnApprover):
            commands.edit_arguments(approval_id=approval_id, caller=as_caller(ann), arguments=arguments)

    def test_lets_who_wrote_or_asked_deny(self, ben: Person, cleo: Person) -> None:
        for edited_by in ("", f"user:{cleo.id}"):
            approval_id = waiting(cleo, edited_by=edited_by)
            commands.deny(approval_id=approval_id, caller=as_caller(cleo))
            assert ends(approval_id) == [approvals.ApprovalDenied]


class TestExpireDue:
    def test_ends_what_nobody_answered_once(self, ann: Person, ben: Person) -> None:
        now = timezone.now()
        due, later = waiting(ann, at=now - timedelta(hours=2)), waiting(ann, at=now)
        with pytest.raises(ApprovalEnded):
            commands.approve(approval_id=due, caller=as_caller(ben))
        assert commands.expire_due(now) == 1
        assert commands.expire_due(now) == 0
        assert queries.state(due).status == "expired"
        assert queries.waiting_sessions([]) == {}
        row = Approval.objects.get(id=later)
        assert row.session_id is not None
        assert queries.waiting_sessions([row.session_id]) == {row.session_id: row.requested_at}

    def test_ends_what_is_erased(self, ann: Person, ben: Person) -> None:
        key_id = create_data_key(subject_id=ann.id, scope="session")
        approval_id = waiting(ann, key_id=key_id)
        big = waiting(ann, key_id=key_id, arguments={"code": "x" * 20_000}, in_blob=True)
        erase_key(key_id)
        for one in (approval_id, big):
            shown = queries.approval(one, as_caller(ben))
            assert (shown["erased"], shown["arguments"], shown["arguments_shown"]) == (True, None, [])
        for command in (commands.approve, commands.deny):
            with pytest.raises(ApprovalEnded):
                command(approval_id=approval_id, caller=as_caller(ben))
        with pytest.raises(ApprovalEnded):
            commands.comment(approval_id=approval_id, caller=as_caller(ben), text="Hm.")
        assert commands.expire_due(timezone.now()) == 2
        assert queries.state(approval_id).void_cause == "erased"

    def test_ends_what_an_erased_person_asked_for(self, ann: Person, ben: Person) -> None:
        approval_id = waiting(ann)
        assert commands.expire_due(timezone.now()) == 0
        erase_subject(ann.id)
        assert commands.expire_due(timezone.now()) == 1
        assert queries.state(approval_id).void_cause == "erased"

    def test_ends_what_waits_in_an_erased_session(self, ann: Person, ben: Person) -> None:
        session_id = new_id()
        one, other = waiting(ann, session_id=session_id), waiting(ann)
        ended = commands.void_of_session(
            session_id=session_id, workspace_id=ann.workspace_id, actor=f"user:{ann.id}"
        )
        assert ended == 1
        assert (queries.state(one).status, queries.state(other).status) == ("void", "waiting")


class TestCancel:
    def test_ends_waiting_and_unused_grants_for_once(self, ann: Person, ben: Person) -> None:
        approval_id = waiting(ann)
        commands.approve(approval_id=approval_id, caller=as_caller(ben))
        [cancelled] = commands.cancel(approval_id=approval_id, actor="system")
        assert isinstance(cancelled.event, ApprovalVoided)
        assert commands.cancel(approval_id=approval_id, actor="system") == []
        assert not grants(approval_id)
        with pytest.raises(ApprovalNotFound):
            commands.cancel(approval_id=uuid4(), actor="system")

    def test_leaves_what_is_remembered(self, ann: Person, ben: Person) -> None:
        approval_id = waiting(ann, terms=EVERY_SCOPE)
        commands.approve(approval_id=approval_id, caller=as_caller(ben), scope="session")
        assert commands.cancel(approval_id=approval_id, actor="system") == []


class TestReadModel:
    def test_is_the_same_after_a_rebuild(
        self, ann: Person, ben: Person, cleo: Person, database: Database
    ) -> None:
        commands.approve(approval_id=waiting(ann), caller=as_caller(ben))
        commands.deny(approval_id=waiting(ann), caller=as_caller(cleo), text="No.")
        used = waiting(ann)
        commands.ask(approval_id=used, caller=as_caller(ben), text="Why?")
        commands.approve(approval_id=used, caller=as_caller(ben))
        use(used)
        commands.edit_arguments(approval_id=waiting(ann), caller=as_caller(ben), arguments={"code": "2"})
        waiting(ann, at=timezone.now() - timedelta(days=2))
        commands.expire_due(timezone.now())
        with database.as_owner():
            differences = rebuild.differences()
        assert not differences


class TestCommand:
    def run(self, *arguments: str) -> str:
        out = StringIO()
        call_command("approvals", "--user", "ben@example.org", *arguments, stdout=out)
        return out.getvalue()

    def test_lists_shows_and_decides(self, ann: Person, ben: Person) -> None:
        approval_id = str(waiting(ann, arguments={"code": "print('\u202e')", "long": "x" * 5000}))
        assert approval_id in self.run("list")
        self.run("comment", approval_id, "Hm.")
        told = self.run("show", approval_id)
        assert "print('⟦U+202E⟧')" in told
        assert "5002 bytes, SHA-256" in told
        assert "comment by" in told
        assert self.run("approve", approval_id) == "granted\n"
        assert self.run("list") == ""
        assert approval_id in self.run("list", "--status", "all")
        with pytest.raises(CommandError, match="approved this request"):
            self.run("deny", approval_id)
        assert self.run("expire") == "0 ended\n"
