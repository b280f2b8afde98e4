"""The governance console: who sees and may do what, and what its pages say."""

import csv
import io
import json
from datetime import timedelta
from typing import Any, ClassVar
from uuid import UUID

import pytest
from django.test import Client
from django.utils import timezone

from cartrita.accounts.commands import change_workspace_settings, ensure_user
from cartrita.accounts.models import Team
from cartrita.accounts.team_commands import create_team
from cartrita.eventstore import RecordedEvent, load
from cartrita.eventstore.models import Event
from governance.approval import ApprovalGranted, ApprovalReplaced, fits
from governance.budget import BudgetClosed, BudgetRaised, BudgetSet
from governance.commands import approvals as approval_commands
from governance.commands import policies as policy_commands
from governance.commands.budgets import set_budget
from governance.exports import DataExported
from governance.models import Approval, Budget, PolicyDecision, PolicyRule, PolicyVersion
from governance.queries.policies import active_policy, draft
from governance.rulebook import PolicyActivated, RuleWithdrawn, RuleWritten, rulebook_id
from governance.spreadsheet import as_csv, spreadsheet_cell
from governance.step import take_step
from tests.databases import Database
from tests.governance.consoles import (
    ROLES,
    asks_for_python,
    decision_of,
    guardian,
    held_answer,
    new_workspace,
)
from tests.governance.policies import rule
from tests.governance.steps import Place

pytestmark = pytest.mark.flow

RULE = {
    "name": "no-mail",
    "sentence": "Mail is not sent.",
    "match": {"kinds": ["tool_call"], "tools": ["send_mail"]},
    "outcome": "deny",
}
HOLD = {
    "name": "answers-are-read-first",
    "sentence": "Answers are read before they are posted.",
    "match": {"kinds": ["message_out"]},
    "condition": "has(args.text) && args.text.contains('quetzalcoatl')",
    "outcome": "escalate",
    "parameters": {"approvers": ["reviewer", "admin"]},
}
FIELDS = {
    "rule-name": "no-mail",
    "rule-sentence": "Mail is not sent.",
    "rule-outcome": "deny",
    "rule-priority": "150",
    "rule-kinds": ["tool_call"],
    "rule-tools": "send_mail",
    "rule-condition": "args.size() > 0",
}


@pytest.fixture
def team(database: Database) -> UUID:
    return new_workspace()


def last(stream_id: UUID) -> Any:
    return load(stream_id)[-1].event


def recorded(stream_id: UUID) -> list[RecordedEvent]:
    return load(stream_id)


def page(client: Client, address: str, status: int = 200) -> str:
    response = client.get(address)
    assert response.status_code == status, address
    return response.content.decode()


def approval_page(approval: Approval, part: str = "change/") -> str:
    return f"/admin/governance/approval/{approval.pk}/{part}"


def decision_page(approval: Approval) -> str:
    return f"/admin/governance/policydecision/{approval.decision_id}/change/"


class TestRoles:
    """Every page by every role: all read, each role changes what is its own."""

    @pytest.mark.parametrize("role", ROLES)
    def test_lets_every_role_read_every_page(self, role: str, team: UUID) -> None:
        approval = asks_for_python(team)
        keeper = guardian(team, "admin")
        budget_id, _ = set_budget(caller=keeper.caller, name="All", scope_kind="workspace", limit_tokens=10)
        rule = PolicyRule.objects.filter(workspace_id=team)[0]
        version = PolicyVersion.objects.get(workspace_id=team)
        client = guardian(team, role).client
        for address in (
            "/admin/",
            "/admin/governance/approval/",
            "/admin/governance/approval/waiting/",
            approval_page(approval),
            approval_page(approval, "state/"),
            "/admin/governance/policyrule/",
            f"/admin/governance/policyrule/{rule.pk}/change/",
            "/admin/governance/policyrule/export/",
            f"/admin/governance/policyrule/export/?hash={version.policy_hash}",
            "/admin/governance/policyversion/",
            f"/admin/governance/policyversion/{version.pk}/change/",
            "/admin/governance/budget/",
            f"/admin/governance/budget/{budget_id}/change/",
            "/admin/governance/policydecision/",
            f"/admin/governance/policydecision/{approval.decision_id}/change/",
            f"/admin/governance/policydecision/{approval.decision_id}/again/",
        ):
            assert client.get(address).status_code == 200, address
        for model in ("approval", "policyrule", "policyversion", "budget", "policydecision"):
            assert client.get(f"/admin/governance/{model}/add/").status_code == 403, model

    @pytest.mark.parametrize("role", ["member", *ROLES])
    def test_lets_each_role_change_its_own_alone(self, role: str, team: UUID) -> None:
        keeper = guardian(team, "admin")
        budget_id, _ = set_budget(caller=keeper.caller, name="All", scope_kind="workspace", limit_tokens=10)
        approval = asks_for_python(team)
        rule = PolicyRule.objects.filter(workspace_id=team)[0]
        version = PolicyVersion.objects.get(workspace_id=team)
        one = guardian(team, role)
        approves, writes, keeps = (
            role in allowed
            for allowed in (
                {"reviewer", "admin"},
                {"policy_author", "admin"},
                {"operator", "admin"},
            )
        )
        activates = writes or role == "reviewer"
        # Forms without their fields change nothing: 400 is a form that says what is missing.
        posts = {
            **{
                approval_page(approval, f"answer/{act}/"): approves
                for act in ("approve", "deny", "ask", "comment", "edit")
            },
            "/admin/governance/policyrule/new/": writes,
            f"/admin/governance/policyrule/{rule.pk}/change/": writes,
            "/admin/governance/policyrule/import/": writes,
            "/admin/governance/policyrule/set/propose/": writes,
            "/admin/governance/policyrule/set/activate/": activates,
            f"/admin/governance/policyversion/{version.pk}/command/propose/": writes,
            f"/admin/governance/policyversion/{version.pk}/command/activate/": activates,
            "/admin/governance/budget/new/": keeps,
            **{f"/admin/governance/budget/{budget_id}/command/{act}/": keeps for act in ("set", "raise")},
        }
        before = {stream: len(load(stream)) for stream in (approval.pk, rulebook_id(team), budget_id)}
        found = {address: one.client.post(address).status_code for address in posts}
        # To a member the console has no such row; pages of a workspace are closed to them.
        closed = {403, 404} if role == "member" else {403}
        wrong = {
            address: (found[address], may)
            for address, may in posts.items()
            if (found[address] == 400) is not may or (not may and found[address] not in closed)
        }
        assert wrong == {}
        if not keeps:
            closing = f"/admin/governance/budget/{budget_id}/command/close/"
            assert one.client.post(closing).status_code in closed
        if not writes:
            withdrawing = f"/admin/governance/policyrule/{rule.pk}/withdraw/"
            assert one.client.post(withdrawing).status_code in closed
        assert before == {stream: len(load(stream)) for stream in before}

    @pytest.mark.parametrize("role", ROLES)
    def test_shows_forms_to_those_who_may_send_them(self, role: str, team: UUID) -> None:
        guardian(team, "reviewer"), guardian(team, "reviewer")
        keeper = guardian(team, "admin")
        budget_id, _ = set_budget(caller=keeper.caller, name="All", scope_kind="workspace", limit_tokens=10)
        approval = asks_for_python(team)
        rule = PolicyRule.objects.filter(workspace_id=team)[0]
        client = guardian(team, role).client
        shown = {
            "approve": "answer/approve/" in page(client, approval_page(approval)),
            "write": 'name="do"' in page(client, f"/admin/governance/policyrule/{rule.pk}/change/"),
            "new rule": "New rule" in page(client, "/admin/governance/policyrule/"),
            "budget": "command/raise/" in page(client, f"/admin/governance/budget/{budget_id}/change/"),
            "new budget": "Set a budget" in page(client, "/admin/governance/budget/"),
        }
        writes, keeps = role in {"policy_author", "admin"}, role in {"operator", "admin"}
        assert shown == {
            "approve": role in {"reviewer", "admin"},
            "write": writes,
            "new rule": writes,
            "budget": keeps,
            "new budget": keeps,
        }

    def test_shows_nothing_of_other_workspaces(self, team: UUID) -> None:
        theirs = new_workspace()
        approval = asks_for_python(theirs)
        rule = PolicyRule.objects.filter(workspace_id=theirs)[0]
        other = guardian(theirs, "admin")
        budget_id, _ = set_budget(caller=other.caller, name="Theirs", scope_kind="workspace", limit_tokens=1)
        client = guardian(team, "admin").client
        for address in (
            approval_page(approval),
            f"/admin/governance/policyrule/{rule.pk}/change/",
            f"/admin/governance/budget/{budget_id}/change/",
        ):
            assert client.get(address).status_code == 302, address
        for address in (
            approval_page(approval, "state/"),
            approval_page(approval, "arguments/"),
            f"/admin/governance/policydecision/{approval.decision_id}/again/",
        ):
            assert client.get(address).status_code == 404, address
        for address in ("policyrule/", "policyrule/new/", "policyrule/export/", "budget/", "budget/new/"):
            there = f"/admin/governance/{address}?workspace={theirs}"
            assert client.get(there).status_code == 403, address
            assert client.post(there).status_code in {403, 405}, address
        assert (
            client.post(approval_page(approval, "answer/approve/"), {"approve-scope": "once"}).status_code
            == 404
        )
        assert "Nothing waits for you." in page(client, "/admin/governance/approval/")
        assert Approval.objects.get(pk=approval.pk).status == "waiting"

    def test_asks_for_the_token_of_forms(self, team: UUID) -> None:
        approval = asks_for_python(team)
        one = guardian(team, "reviewer")
        strict = Client(enforce_csrf_checks=True)
        strict.force_login(one.user, backend="django.contrib.auth.backends.ModelBackend")
        address = approval_page(approval, "answer/approve/")
        assert strict.post(address, {"approve-scope": "once"}).status_code == 403

    def test_withholds_what_is_asked_from_superusers_without_a_role(self, team: UUID) -> None:
        approval = asks_for_python(team)
        root = ensure_user(email="root@example.com", is_staff=True, is_superuser=True)
        client = Client()
        client.force_login(root, backend="django.contrib.auth.backends.ModelBackend")
        for address in (approval_page(approval), decision_page(approval)):
            shown = page(client, address)
            assert "print(1)" not in shown
            assert "Withheld" in shown
        page(client, approval_page(approval, "arguments/"), 403)
        assert client.post(approval_page(approval, "answer/deny/"), {"deny-text": "no"}).status_code == 403

    def test_hides_what_a_request_says_from_those_who_do_not_decide(self, team: UUID) -> None:
        approval = asks_for_python(team, {"code": "print('quiet')"})
        for role, reads in (
            ("operator", False),
            ("policy_author", False),
            ("auditor", True),
            ("reviewer", True),
        ):
            client = guardian(team, role).client
            assert ("quiet" in page(client, approval_page(approval))) is reads, role
            file = client.get(approval_page(approval, "arguments/"))
            assert file.status_code == (200 if reads else 403), role

    @pytest.mark.parametrize("superuser", [False, True])
    @pytest.mark.parametrize("role", ["admin", "reviewer", "auditor"])
    def test_withholds_a_held_answer_from_who_asked_for_it(
        self, role: str, superuser: bool, team: UUID
    ) -> None:
        reviewer, author = guardian(team, "reviewer"), guardian(team, "admin")
        policy_commands.write_rule(workspace_id=team, definition=HOLD, caller=author.caller)
        draft_hash = draft(team).policy_hash
        policy_commands.propose(workspace_id=team, caller=author.caller, policy_hash=draft_hash)
        policy_commands.activate(workspace_id=team, caller=reviewer.caller, policy_hash=draft_hash)
        asker = guardian(team, role)
        asker.user.is_superuser = superuser
        asker.user.save()
        held = held_answer(team, "quetzalcoatl", requester_id=asker.user.pk)
        for one, reads in ((asker, False), (reviewer, True)):
            for address in (approval_page(held), decision_page(held)):
                shown = page(one.client, address)
                assert ("quetzalcoatl" in shown, "Withheld" in shown) == (reads, not reads), address
            page(one.client, approval_page(held, "arguments/"), 200 if reads else 403)
            again = f"/admin/governance/policydecision/{held.decision_id}/again/"
            assert "quetzalcoatl" not in page(one.client, again)


class TestInbox:
    def test_puts_the_riskiest_and_oldest_first(self, team: UUID) -> None:
        first = asks_for_python(team)
        second = asks_for_python(team)
        Approval.objects.filter(pk=second.pk).update(safety_level="restricted")
        third = asks_for_python(team)
        listed = page(guardian(team, "reviewer").client, "/admin/governance/approval/waiting/")
        places = [listed.index(str(each.pk)) for each in (second, first, third)]
        assert places == sorted(places)
        assert "3 requests wait." in " ".join(listed.split())

    def test_says_that_nothing_waits(self, team: UUID) -> None:
        listed = page(guardian(team, "reviewer").client, "/admin/governance/approval/")
        assert "Nothing waits for you." in listed
        assert "/admin/governance/policyrule/" in listed

    def test_names_the_channels_of_the_persons_workspaces(self, team: UUID) -> None:
        listed = page(guardian(team, "reviewer").client, "/admin/governance/approval/")
        assert f'data-channels="approvals:{team}"' in listed


class TestApproval:
    def test_shows_what_a_person_needs(self, team: UUID) -> None:
        asker = guardian(team, name="Ann Asker")
        earlier = asks_for_python(team, requester_id=asker.user.pk)
        reviewer = guardian(team, "reviewer", name="Rita Reviewer")
        approval_commands.deny(approval_id=earlier.pk, caller=reviewer.caller, text="not like this")
        approval = asks_for_python(team, {"code": "print(6 * 7)"}, requester_id=asker.user.pk)
        shown = page(reviewer.client, approval_page(approval))
        for said in (
            "print(6 * 7)",
            "Ann Asker",
            approval.definition_hash,
            approval.policy_hash,
            approval.rule_hash,
            approval.rule,
            str(approval.session_id),
            str(approval.decision_id),
            "Four eyes are off: only one person holds",
            f"/admin/governance/approval/{earlier.pk}/change/",
            "Rita Reviewer",
            "governance.ApprovalRequested",
            f"/admin/eventstore/orderedevent/?q={approval.pk}",
        ):
            assert said in shown, said
        assert "not like this" in page(reviewer.client, approval_page(earlier))

    def test_records_an_approval_for_once(self, team: UUID) -> None:
        approval = asks_for_python(team)
        one = guardian(team, "reviewer")
        answer = one.client.post(
            approval_page(approval, "answer/approve/"),
            {"approve-scope": "once", "approve-text": "fine"},
            follow=True,
        )
        assert "Your approval is recorded." in answer.content.decode()
        granted = last(approval.pk)
        assert isinstance(granted, ApprovalGranted)
        assert (granted.by, granted.scope, granted.own) == ((f"user:{one.user.pk}",), "once", False)

    def test_tells_the_second_reviewer_who_was_first_and_how(self, team: UUID) -> None:
        approval = asks_for_python(team)
        first, second = guardian(team, "reviewer", name="Fay First"), guardian(team, "reviewer")
        assert "answer/approve/" in page(second.client, approval_page(approval))
        first.client.post(approval_page(approval, "answer/deny/"), {"deny-text": "too risky"})
        late = second.client.post(approval_page(approval, "answer/approve/"), {"approve-scope": "once"})
        assert late.status_code == 409
        said = " ".join(late.content.decode().split())
        assert "Fay First" in said
        assert "Denied" in said
        assert 'role="alert"' in said
        assert "answer/approve/" not in said
        assert Approval.objects.get(pk=approval.pk).status == "denied"

    def test_says_when_the_time_is_over(self, team: UUID) -> None:
        approval = asks_for_python(team)
        approval_commands.expire_due(approval.expires_at)
        one = guardian(team, "reviewer")
        late = one.client.post(approval_page(approval, "answer/approve/"), {"approve-scope": "once"})
        assert late.status_code == 409
        assert "expired, which counts as no" in late.content.decode().lower()

    def test_says_why_a_request_is_void(self, team: UUID) -> None:
        approval = asks_for_python(team)
        approval_commands.void(approval_id=approval.pk, cause="tool_changed", actor="system")
        one = guardian(team, "reviewer")
        late = one.client.post(approval_page(approval, "answer/deny/"), {"deny-text": "no"})
        assert late.status_code == 409
        assert "the tool changed" in late.content.decode()

    def test_keeps_four_eyes(self, team: UUID) -> None:
        asker = guardian(team, "reviewer")
        alone = asks_for_python(team, requester_id=asker.user.pk)
        assert "answer/approve/" in page(asker.client, approval_page(alone))
        asker.client.post(approval_page(alone, "answer/approve/"), {"approve-scope": "once"})
        assert "four eyes were off" in page(asker.client, approval_page(alone))
        guardian(team, "reviewer")
        watched = asks_for_python(team, requester_id=asker.user.pk)
        shown = page(asker.client, approval_page(watched))
        assert "Four eyes are on" in shown
        assert "another person must approve it" in shown
        assert "answer/deny/" in shown
        assert "answer/approve/" not in shown
        posted = asker.client.post(approval_page(watched, "answer/approve/"), {"approve-scope": "once"})
        assert posted.status_code == 403
        assert Approval.objects.get(pk=watched.pk).status == "waiting"
        asker.client.post(approval_page(watched, "answer/deny/"), {"deny-text": "my mistake"})
        assert Approval.objects.get(pk=watched.pk).status == "denied"

    def test_lets_who_asked_approve_what_another_wrote(self, team: UUID) -> None:
        asker, editor = guardian(team, "admin"), guardian(team, "reviewer")
        edited = asks_for_python(team, requester_id=asker.user.pk)
        Approval.objects.filter(pk=edited.pk).update(edited_by=f"user:{editor.user.pk}")
        barred = page(editor.client, approval_page(edited))
        assert "These arguments are yours" in barred
        assert ("answer/approve/" in barred, "answer/deny/" in barred) == (False, True)
        free = page(asker.client, approval_page(edited))
        assert "another person must" not in free
        assert "answer/approve/" in free

    def test_keeps_a_thread_of_notes(self, team: UUID) -> None:
        asker = guardian(team, "operator", name="Ann Asker")
        approval = asks_for_python(team, requester_id=asker.user.pk)
        reviewer = guardian(team, "reviewer", name="Rita Reviewer")
        reviewer.client.post(approval_page(approval, "answer/ask/"), {"ask-text": "What is it for?"})
        asker.client.post(approval_page(approval, "answer/answer/"), {"answer-text": "For the report."})
        reviewer.client.post(approval_page(approval, "answer/comment/"), {"comment-text": "I see."})
        shown = page(reviewer.client, approval_page(approval))
        places = [shown.index(said) for said in ("What is it for?", "For the report.", "I see.")]
        assert places == sorted(places)
        assert (
            asker.client.post(approval_page(approval, "answer/deny/"), {"deny-text": "x"}).status_code == 403
        )

    def test_replaces_a_request_by_one_with_other_arguments(self, team: UUID) -> None:
        approval = asks_for_python(team)
        one = guardian(team, "reviewer")
        address = approval_page(approval, "answer/edit/")
        for wrong in ("", "{", "[1]", '{"code": NaN}', '{"code": "a", "code": "b"}', "[" * 100_000):
            answer = one.client.post(address, {"edit-arguments": wrong})
            assert answer.status_code == 400, wrong[:40]
        assert "Line 1, column 2" in one.client.post(address, {"edit-arguments": "{"}).content.decode()
        unfit = one.client.post(address, {"edit-arguments": '{"code": 5, "speed": 1}'})
        assert unfit.status_code == 400
        [said] = unfit.context["errors"]
        assert "code: " in said
        assert "speed: not a parameter" in said
        assert "&quot;speed&quot;: 1" in unfit.content.decode()
        assert one.client.post(address, {"edit-arguments": '{"code": "print(2)"}'}).status_code == 302
        replaced = last(approval.pk)
        assert isinstance(replaced, ApprovalReplaced)
        assert replaced.arguments == {"code": "print(2)"}

    def test_takes_an_unused_approval_back(self, team: UUID) -> None:
        approval = asks_for_python(team)
        one = guardian(team, "reviewer")
        one.client.post(approval_page(approval, "answer/approve/"), {"approve-scope": "once"})
        assert "answer/withdraw/" in page(one.client, approval_page(approval))
        one.client.post(approval_page(approval, "answer/withdraw/"))
        assert Approval.objects.get(pk=approval.pk).status == "void"

    def test_asks_for_what_a_pattern_needs(self, team: UUID) -> None:
        one, author = guardian(team, "reviewer"), guardian(team, "admin")
        active_policy(team)
        python = PolicyRule.objects.get(workspace_id=team, name="python-needs-a-reviewer").definition
        python["parameters"] = {"scopes": ["once", "session", "pattern"]}
        policy_commands.write_rule(workspace_id=team, definition=python, caller=author.caller)
        draft_hash = draft(team).policy_hash
        policy_commands.propose(workspace_id=team, caller=author.caller, policy_hash=draft_hash)
        policy_commands.activate(workspace_id=team, caller=one.caller, policy_hash=draft_hash)
        approval = asks_for_python(team, {"code": "print(1)"})
        address = approval_page(approval, "answer/approve/")
        wanting = {"approve-scope": "pattern"}
        for more in (
            {},
            {"approve-pattern": "[]"},
            {"approve-pattern": '{"code": 1}'},
            {"approve-pattern": "{"},
        ):
            assert one.client.post(address, {**wanting, **more}).status_code == 400, more
        until = timezone.now() + timedelta(days=1)
        full = {
            **wanting,
            "approve-pattern": '{"code": "print*"}',
            "approve-valid_until": f"{until:%Y-%m-%dT%H:%M}",
        }
        answer = one.client.post(address, full)
        assert answer.status_code == 302, answer.content.decode()
        granted = last(approval.pk)
        assert isinstance(granted, ApprovalGranted)
        assert granted.pattern == {"code": "print*"}
        assert "print*" in page(one.client, approval_page(approval))

    def test_offers_the_exact_arguments_as_a_pattern(self, team: UUID) -> None:
        approval = asks_for_python(team, {"code": "2 * 3 \\ 1", "timeout": 5})
        Approval.objects.filter(pk=approval.pk).update(scopes=["once", "pattern"])
        form = guardian(team, "reviewer").client.get(approval_page(approval)).context["forms"][0]
        offered = json.loads(form["pattern"].value())
        assert offered == {"code": r"2 \* 3 \\ 1", "timeout": "5"}
        assert fits(offered, {"code": "2 * 3 \\ 1", "timeout": 5})


class TestHostileArguments:
    """What a request says reaches the page as text that hides nothing."""

    HOSTILE = (
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "{{ 7 * 7 }} {% csrf_token %}",
        "safe\u202egnp.exe",
        "zero\u200bwidth\u2066isolate",
        "p\u0430ypal.com",
        "bell\x07 and escape\x1b[31m",
    )

    def test_is_shown_escaped_with_hidden_characters_visible(self, team: UUID) -> None:
        arguments = {f"argument {place}": text for place, text in enumerate(self.HOSTILE)}
        approval = asks_for_python(team, {**arguments, "<b>name</b>": 1})
        shown = page(guardian(team, "reviewer").client, approval_page(approval))
        for raw in (
            "<script>alert",
            "<img src=x",
            "<b>name",
            "\u202e",
            "\u200b",
            "\u2066",
            "\u0430",
            "\x07",
            "\x1b",
        ):
            assert raw not in shown, raw
        for visible in ("&lt;script&gt;", "⟦U+202E⟧", "⟦U+200B⟧", "⟦U+0430⟧", "⟦U+001B⟧", "{{ 7 * 7 }}"):
            assert visible in shown, visible
        assert r"\u202e" in shown  # in the field that changes the arguments

    def test_is_shown_by_hash_and_size_where_it_is_long(self, team: UUID) -> None:
        approval = asks_for_python(team, {"code": "x = 1\n" * 20_000, "timeout": 5})
        one = guardian(team, "reviewer")
        shown = page(one.client, approval_page(approval))
        assert "x = 1" not in shown
        assert "(140002 bytes), SHA-256" in " ".join(shown.split())
        assert len(shown) < 60_000
        file = one.client.get(approval_page(approval, "arguments/"))
        assert "attachment" in file.headers["Content-Disposition"]
        assert json.loads(file.content) == {"code": "x = 1\n" * 20_000, "timeout": 5}

    def test_is_escaped_in_notes_too(self, team: UUID) -> None:
        approval = asks_for_python(team)
        one = guardian(team, "reviewer", name="<i>Rita</i>")
        one.client.post(
            approval_page(approval, "answer/comment/"), {"comment-text": "<script>1</script>\u202e"}
        )
        shown = page(one.client, approval_page(approval))
        assert "<script>1" not in shown
        assert "<i>Rita" not in shown
        assert "⟦U+202E⟧" in shown


class TestExport:
    @pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "＝1"])
    def test_quotes_what_a_spreadsheet_takes_for_a_formula(self, text: str) -> None:
        assert spreadsheet_cell(text) == f"'{text}"

    @pytest.mark.parametrize("mark", ["=", "+", "-", "@", "＝", ' "=', '"="', "\t=", "\r=", "\n=", ";;="])
    @pytest.mark.parametrize("separator", [";", "\t", "\n", "\r\n"])
    def test_quotes_what_begins_a_cell_where_another_separator_counts(
        self, separator: str, mark: str
    ) -> None:
        """A spreadsheet that splits at `;` sees no quotes in the middle of what it takes for a cell."""
        (line,) = csv.reader(
            as_csv(["a", "b"], [["x", f'y, "z"{separator}{mark}1+1']])
            .decode("utf-8-sig")
            .replace("\r", ";")
            .replace("\n", ";")
            .replace("\t", ";")
            .splitlines(),
            delimiter=";",
        )
        assert not [cell for cell in line if cell.strip(' "').startswith(("=", "+", "-", "@", "＝"))]

    def test_leaves_what_follows_a_separator_and_is_no_formula(self) -> None:
        assert spreadsheet_cell("a; b=1;c - d\ne") == "a; b=1;c - d\ne"

    def test_leaves_numbers_and_other_text_alone(self) -> None:
        assert [spreadsheet_cell(each) for each in (-5, None, True, "a=b", ["a", "b"], "")] == [
            "-5",
            "",
            "True",
            "a=b",
            "a b",
            "",
        ]

    def test_gives_chosen_rows_as_csv(self, team: UUID) -> None:
        approval = asks_for_python(team)
        Approval.objects.filter(pk=approval.pk).update(reason="=cmd|' /C calc'!A0", agent_name="@agent")
        client = guardian(team, "auditor").client
        for model, key in (("approval", approval.pk), ("policydecision", approval.decision_id)):
            answer = client.post(
                f"/admin/governance/{model}/", {"action": "export_csv", "_selected_action": [str(key)]}
            )
            assert answer.headers["Content-Type"].startswith("text/csv")
            (row,) = csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig")))
            assert row["id"] == str(key)
            assert not [cell for cell in row.values() if cell.startswith(("=", "+", "-", "@"))]
        exports = Event.objects.filter(type="governance.DataExported", workspace_id=team).order_by("seq")
        taken = [load(each.stream_id)[0].event for each in exports]
        assert [(each.what, each.rows) for each in taken if isinstance(each, DataExported)] == [
            ("approvals", 1),
            ("decisions", 1),
        ]


class TestRules:
    def test_lists_the_draft_beside_what_is_in_force(self, team: UUID) -> None:
        author = guardian(team, "policy_author")
        asks_for_python(team)
        policy_commands.write_rule(workspace_id=team, definition=RULE, caller=author.caller)
        policy_commands.withdraw_rule(workspace_id=team, name="default-plan", caller=author.caller)
        shown = " ".join(page(author.client, "/admin/governance/policyrule/").split())
        assert "no-mail" in shown
        assert "2 rules differ from what is in force." in shown
        assert '<span class="removed">default-plan</span>' in shown
        assert "Off: only one person may approve policies here." in shown
        assert active_policy(team).content_hash in shown

    def test_writes_a_rule_by_its_fields(self, team: UUID) -> None:
        author = guardian(team, "policy_author")
        checked = author.client.post("/admin/governance/policyrule/new/", {**FIELDS, "do": "check"})
        assert "The rule is valid" in checked.content.decode()
        assert not PolicyRule.objects.filter(name="no-mail").exists()
        saved = author.client.post("/admin/governance/policyrule/new/", {**FIELDS, "do": "save"})
        assert saved.status_code == 302, saved.content.decode()
        written = last(rulebook_id(team))
        assert isinstance(written, RuleWritten)
        assert written.definition["condition"] == "args.size() > 0"
        row = PolicyRule.objects.get(workspace_id=team, name="no-mail")
        again = page(author.client, f"/admin/governance/policyrule/{row.pk}/change/")
        assert "args.size() &gt; 0" in again

    def test_shows_where_a_condition_is_wrong_and_the_known_names(self, team: UUID) -> None:
        author = guardian(team, "policy_author")
        wrong = {**FIELDS, "rule-condition": 'kind == "tool_call"\n  && tool.nmae == "x"', "do": "save"}
        answer = author.client.post("/admin/governance/policyrule/new/", wrong)
        assert answer.status_code == 400
        shown = answer.content.decode()
        assert "Condition, 2:" in shown
        assert "  &amp;&amp; tool.nmae" in shown
        assert "^</pre>" in shown
        assert "did you mean tool.name?" in shown
        assert "counters.calls_last_minute" in shown
        assert not PolicyRule.objects.filter(name="no-mail").exists()

    def test_shows_the_place_in_yaml(self, team: UUID) -> None:
        author = guardian(team, "policy_author")
        text = "name: no-mail\nsentence: Mail is not sent.\nmatch: {kinds: [tool_call]}\noutcome: dney\n"
        answer = author.client.post(
            "/admin/governance/policyrule/new/?as=yaml", {"rule-text": text, "do": "save"}
        )
        shown = answer.content.decode()
        assert answer.status_code == 400
        assert "4:10 outcome" in shown
        assert "outcome: dney\n         ^</pre>" in shown
        good = author.client.post(
            "/admin/governance/policyrule/new/?as=yaml",
            {"rule-text": text.replace("dney", "deny"), "do": "save"},
        )
        assert good.status_code == 302, good.content.decode()

    @pytest.mark.parametrize(
        "text",
        [
            "- a\n- b",
            "x",
            "name: [",
            "a: &b 1",
            "name: a\nname: b",
            "{}",
            "rules:\n  - name: x",
            "\x00",
            "a: " * 5000,
        ],
    )
    def test_answers_any_text_with_what_is_wrong(self, text: str, team: UUID) -> None:
        author = guardian(team, "policy_author")
        answer = author.client.post(
            "/admin/governance/policyrule/new/?as=yaml", {"rule-text": text, "do": "check"}
        )
        assert answer.status_code == 400

    @pytest.mark.parametrize("mode", ["form", "yaml"])
    def test_writes_no_version_of_an_unchanged_rule(self, mode: str, team: UUID) -> None:
        author = guardian(team, "policy_author")
        active_policy(team)
        row = PolicyRule.objects.get(workspace_id=team, name="private-keys-stay-inside")
        address = f"/admin/governance/policyrule/{row.pk}/change/?as={mode}"
        form = author.client.get(address).context["form"]
        held = {form.add_prefix(name): form[name].value() for name in form.fields}
        given = {name: value for name, value in held.items() if value is not None}
        saved = author.client.post(address, {**given, "do": "save", "rule_version": 1})
        assert saved.status_code == 302, saved.content.decode()
        assert PolicyRule.objects.get(pk=row.pk).version == 1
        other = "yaml" if mode == "form" else "form"
        turned = author.client.post(address, {**given, "do": other}).content.decode()
        assert ('name="rule-text"' in turned) is (other == "yaml")

    def test_tells_the_second_author_of_the_first(self, team: UUID) -> None:
        first, second = guardian(team, "policy_author", name="Fay First"), guardian(team, "policy_author")
        first.client.post("/admin/governance/policyrule/new/", {**FIELDS, "do": "save"})
        row = PolicyRule.objects.get(workspace_id=team, name="no-mail")
        address = f"/admin/governance/policyrule/{row.pk}/change/"
        mine = {**FIELDS, "rule-sentence": "Never.", "do": "save", "rule_version": "1"}
        assert first.client.post(address, {**mine, "rule-sentence": "No."}).status_code == 302
        late = second.client.post(address, mine)
        assert late.status_code == 409
        assert "Fay First wrote version 2" in late.content.decode()
        assert second.client.post(address, {**mine, "rule_version": "2"}).status_code == 302
        taken = second.client.post("/admin/governance/policyrule/new/", {**FIELDS, "do": "save"})
        assert taken.status_code == 409

    def test_keeps_a_rules_name(self, team: UUID) -> None:
        author = guardian(team, "policy_author")
        author.client.post("/admin/governance/policyrule/new/", {**FIELDS, "do": "save"})
        row = PolicyRule.objects.get(workspace_id=team, name="no-mail")
        renamed = {**FIELDS, "rule-name": "other", "do": "save", "rule_version": "1"}
        answer = author.client.post(f"/admin/governance/policyrule/{row.pk}/change/", renamed)
        assert answer.status_code == 400
        assert "Keep no-mail" in answer.content.decode()

    def test_tries_a_rule_on_one_event(self, team: UUID) -> None:
        author = guardian(team, "policy_author")
        decision = decision_of(asks_for_python(team))
        forbids = {**FIELDS, "rule-tools": "execute_python", "rule-priority": "1", "do": "try"}
        for pick in ({"try-decision": str(decision.pk)}, {"try-decision_id": str(decision.pk)}):
            answer = author.client.post("/admin/governance/policyrule/new/", {**forbids, **pick})
            assert answer.status_code == 200
            shown = answer.content.decode()
            assert "The verdict changes" in shown
            assert decision.policy_rule in shown
        for missing in ({}, {"try-decision_id": "nonsense"}):
            assert (
                author.client.post("/admin/governance/policyrule/new/", {**forbids, **missing}).status_code
                == 400
            )
        elsewhere = decision_of(asks_for_python(new_workspace()))
        answer = author.client.post(
            "/admin/governance/policyrule/new/", {**forbids, "try-decision_id": str(elsewhere.pk)}
        )
        assert answer.status_code == 404
        assert not PolicyRule.objects.filter(name="no-mail").exists()

    def test_withdraws_a_rule_and_takes_it_back(self, team: UUID) -> None:
        author = guardian(team, "policy_author")
        author.client.post("/admin/governance/policyrule/new/", {**FIELDS, "do": "save"})
        row = PolicyRule.objects.get(workspace_id=team, name="no-mail")
        author.client.post(f"/admin/governance/policyrule/{row.pk}/withdraw/")
        assert isinstance(last(rulebook_id(team)), RuleWithdrawn)
        shown = page(author.client, f"/admin/governance/policyrule/{row.pk}/change/")
        assert "It is taken out of the draft" in shown
        back = author.client.post(
            f"/admin/governance/policyrule/{row.pk}/change/",
            {**FIELDS, "do": "save", "rule_version": row.version},
        )
        assert back.status_code == 302, back.content.decode()
        assert not PolicyRule.objects.get(pk=row.pk).withdrawn

    def test_puts_a_draft_in_force_alone_while_four_eyes_are_off(self, team: UUID) -> None:
        author = guardian(team, "policy_author")
        author.client.post("/admin/governance/policyrule/new/", {**FIELDS, "do": "save"})
        shown = page(author.client, "/admin/governance/policyrule/")
        assert "set/activate/" in shown
        author.client.post(
            "/admin/governance/policyrule/set/activate/",
            {"activate-policy_hash": draft(team).policy_hash, "activate-note": "go"},
        )
        activated = last(rulebook_id(team))
        assert isinstance(activated, PolicyActivated)
        assert activated.alone
        assert "alone: four eyes were off" in page(author.client, "/admin/governance/policyrule/")

    def test_needs_a_second_person_while_four_eyes_are_on(self, team: UUID) -> None:
        author, reviewer = guardian(team, "policy_author", name="Ada"), guardian(team, "reviewer")
        author.client.post("/admin/governance/policyrule/new/", {**FIELDS, "do": "save"})
        shown = page(author.client, "/admin/governance/policyrule/")
        assert "set/propose/" in shown
        assert "set/activate/" not in shown
        wanted = draft(team).policy_hash
        author.client.post("/admin/governance/policyrule/set/propose/", {"propose-policy_hash": wanted})
        own = author.client.post(
            "/admin/governance/policyrule/set/activate/", {"activate-policy_hash": wanted}
        )
        assert own.status_code == 403
        assert "You proposed this set yourself" in own.content.decode()
        shown = page(reviewer.client, "/admin/governance/policyrule/")
        assert "Ada proposes the set" in shown
        assert "no-mail: new" in shown
        assert "sentence: Mail is not sent." in shown
        assert "set/activate/" in shown
        other = reviewer.client.post(
            "/admin/governance/policyrule/set/activate/", {"activate-policy_hash": wanted}
        )
        assert other.status_code == 302, other.content.decode()
        assert active_policy(team).content_hash == wanted

    def test_rolls_back_to_an_earlier_set(self, team: UUID) -> None:
        author = guardian(team, "policy_author")
        first = active_policy(team).content_hash
        author.client.post("/admin/governance/policyrule/new/", {**FIELDS, "do": "save"})
        author.client.post(
            "/admin/governance/policyrule/set/activate/", {"activate-policy_hash": draft(team).policy_hash}
        )
        earlier = PolicyVersion.objects.get(workspace_id=team, policy_hash=first)
        shown = page(author.client, f"/admin/governance/policyversion/{earlier.pk}/change/")
        assert "command/activate/" in shown
        assert "only in force now" in shown
        author.client.post(
            f"/admin/governance/policyversion/{earlier.pk}/command/activate/", {"activate-policy_hash": first}
        )
        assert active_policy(team).content_hash == first

    def test_imports_what_it_exports(self, team: UUID) -> None:
        author = guardian(team, "policy_author")
        active_policy(team)
        text = page(author.client, "/admin/governance/policyrule/export/")
        edited = text.replace("policy: starter", "policy: ours")
        answer = author.client.post("/admin/governance/policyrule/import/", {"import-text": edited})
        assert answer.status_code == 302, answer.content.decode()
        assert draft(team).policy == "ours"
        file = io.BytesIO(text.encode())
        file.name = "policy.yaml"
        assert (
            author.client.post("/admin/governance/policyrule/import/", {"import-file": file}).status_code
            == 302
        )
        assert draft(team).policy_hash == active_policy(team).content_hash

    def test_shows_each_problem_of_an_import(self, team: UUID) -> None:
        author = guardian(team, "policy_author")
        wrong = "policy: x\nrules:\n  - name: a\n    sentence: A\n    match: {kinds: [no]}\n    outcome: deny"
        answer = author.client.post("/admin/governance/policyrule/import/", {"import-text": wrong})
        assert answer.status_code == 400
        assert "5:" in answer.content.decode()
        assert "^</pre>" in answer.content.decode()
        bad = io.BytesIO(b"\xff\xfe\x00")
        bad.name = "x.yaml"
        answer = author.client.post("/admin/governance/policyrule/import/", {"import-file": bad})
        assert answer.status_code == 400
        assert "UTF-8" in answer.content.decode()


class TestBudgets:
    TERMS: ClassVar = {
        "set-name": "Team",
        "set-scope_kind": "workspace",
        "set-period": "month",
        "set-time_zone": "UTC",
        "set-limit_tokens": "1000",
        "set-limit_money": "2.50",
        "set-currency": "USD",
        "set-warn_percent": "80",
    }

    def test_sets_raises_and_closes(self, team: UUID) -> None:
        keeper = guardian(team, "operator")
        assert "No budget limits this workspace." in page(keeper.client, "/admin/governance/budget/")
        answer = keeper.client.post("/admin/governance/budget/new/", self.TERMS)
        assert answer.status_code == 302, answer.content.decode()
        row = Budget.objects.get(workspace_id=team)
        assert isinstance(last(row.pk), BudgetSet)
        assert (row.limit_tokens, row.limit_micros) == (1000, 2_500_000)
        tree = " ".join(page(keeper.client, "/admin/governance/budget/").split())
        assert "1000 tokens" in tree
        assert "2.5 USD" in tree
        assert 'aria-label="Team, in tokens: 0 used, 0 held back, 1000 left"' in tree
        address = f"/admin/governance/budget/{row.pk}"
        assert (
            keeper.client.post(f"{address}/command/raise/", {"raise-limit_tokens": "2000"}).status_code == 400
        )
        lower = {"raise-limit_tokens": "10", "raise-reason": "less"}
        assert keeper.client.post(f"{address}/command/raise/", lower).status_code == 400
        more = {"raise-limit_tokens": "2000", "raise-reason": "more work"}
        assert keeper.client.post(f"{address}/command/raise/", more).status_code == 302
        raised = last(row.pk)
        assert isinstance(raised, BudgetRaised)
        assert (raised.limit_tokens, raised.limit_micros, raised.reason) == (2000, 2_500_000, "more work")
        assert keeper.client.post(f"{address}/command/close/").status_code == 302
        assert isinstance(last(row.pk), BudgetClosed)
        assert "It is closed" in page(keeper.client, f"{address}/change/")
        assert (
            "Team" not in page(keeper.client, "/admin/governance/budget/").split("<main")[1].split("Home")[0]
        )

    @pytest.mark.parametrize(
        ("wrong", "said"),
        [
            ({"set-limit_tokens": "", "set-limit_money": ""}, "limit_tokens"),
            ({"set-limit_tokens": "-1"}, "greater than or equal to 0"),
            ({"set-time_zone": "Moon/Sea"}, "Moon/Sea"),
            ({"set-currency": "XXQ"}, "no currency"),
            ({"set-scope_kind": "user", "set-scope": "nobody@example.com"}, "Nobody with this address"),
            ({"set-scope_kind": "session", "set-scope": "x"}, "Write an id."),
            ({"set-scope_kind": "agent"}, "Write a name."),
            ({"set-parent": "018f0000-0000-7000-8000-000000000001"}, "Select a valid choice"),
        ],
    )
    def test_says_at_the_field_what_is_wrong(self, wrong: dict[str, str], said: str, team: UUID) -> None:
        keeper = guardian(team, "operator")
        answer = keeper.client.post("/admin/governance/budget/new/", {**self.TERMS, **wrong})
        assert answer.status_code == 400
        assert said in answer.content.decode()
        assert not Budget.objects.exists()

    def test_shows_parts_below_what_they_are_part_of(self, team: UUID) -> None:
        keeper = guardian(team, "admin", name="Kay Keeper")
        keeper.client.post("/admin/governance/budget/new/", self.TERMS)
        team_budget = Budget.objects.get(workspace_id=team)
        part = {
            **self.TERMS,
            "set-name": "Kay",
            "set-scope_kind": "user",
            "set-scope": keeper.user.email,
            "set-parent": str(team_budget.pk),
        }
        assert keeper.client.post("/admin/governance/budget/new/", part).status_code == 302
        tree = page(keeper.client, "/admin/governance/budget/")
        assert 'class="level-1"' in tree
        assert "person: Kay Keeper" in tree
        cyclic = {
            "set-name": "Team",
            "set-parent": str(Budget.objects.get(name="Kay").pk),
            "set-time_zone": "UTC",
            "set-limit_tokens": "5",
            "set-currency": "USD",
            "set-warn_percent": "80",
        }
        answer = keeper.client.post(f"/admin/governance/budget/{team_budget.pk}/command/set/", cyclic)
        assert answer.status_code == 400
        assert "itself a part of this one" in answer.content.decode()

    def test_shows_what_is_about_to_run_out_and_where_it_went(self, team: UUID) -> None:
        keeper = guardian(team, "admin", name="Kay Keeper")
        change_workspace_settings(caller=keeper.caller, time_zone="Asia/Tokyo")
        place = Place(workspace_id=team, user_id=keeper.user.pk)
        place.follows(rule("ok", "allow"))
        budget_id, _ = set_budget(
            caller=keeper.caller, name="<b>Team</b>", scope_kind="workspace", period="day", limit_tokens=100
        )
        (decided,) = take_step(context=place.context, acts=[place.act(tokens=85)])
        tree = " ".join(page(keeper.client, "/admin/governance/budget/").split())
        assert "About to run out" in tree
        assert "&lt;b&gt;Team&lt;/b&gt;</a> (workspace): 85 % taken" in tree
        assert " JST" in tree
        assert "0 used, 85 held back, 15 left" in tree
        shown = " ".join(page(keeper.client, f"/admin/governance/budget/{budget_id}/change/").split())
        assert f"/admin/governance/policydecision/{decided.decision_id}/change/" in shown
        assert "Kay Keeper" in shown
        assert "Its periods" in shown
        period = shown.partition("?period=")[2].partition("#")[0]
        again = page(keeper.client, f"/admin/governance/budget/{budget_id}/change/?period={period}")
        assert str(decided.decision_id) in again

    def test_hands_them_out_as_csv_and_records_it(self, team: UUID) -> None:
        auditor = guardian(team, "auditor")
        set_budget(
            caller=guardian(team, "admin").caller, name="=cmd", scope_kind="workspace", limit_tokens=10
        )
        assert auditor.client.get("/admin/governance/budget/export/").status_code == 302
        answer = auditor.client.post("/admin/governance/budget/export/", {"workspace": str(team)})
        assert "'=cmd" in answer.content.decode("utf-8-sig")
        exported = Event.objects.get(type="governance.DataExported", workspace_id=team)
        assert exported.actor == f"user:{auditor.user.pk}"

    def test_sets_up_the_workspace(self, team: UUID) -> None:
        keeper, operator = guardian(team, "admin"), guardian(team, "operator")
        address = "/admin/governance/budget/settings/"
        wrong = {"settings-time_zone": "Moon/Sea", "settings-currency": "USD"}
        assert keeper.client.post(address, wrong).status_code == 400
        wanted = {"settings-time_zone": "Europe/Berlin", "settings-currency": "eur"}
        assert operator.client.post(address, wanted).status_code == 403
        assert keeper.client.post(address, wanted).status_code == 302
        assert 'value="Europe/Berlin"' in page(operator.client, "/admin/governance/budget/new/")


class TestTeams:
    def test_are_made_filled_renamed_and_closed(self, team: UUID) -> None:
        keeper = guardian(team, "admin", name="Kay Keeper")
        mate = guardian(team, "auditor", name="Mia <i>Mate</i>")
        assert "There is no team." in page(keeper.client, "/admin/accounts/team/")
        new = {"new-name": "Blue", "new-members": [str(keeper.user.pk)]}
        assert keeper.client.post("/admin/accounts/team/new/", new).status_code == 302
        row = Team.objects.get(workspace_id=team)
        address = f"/admin/accounts/team/{row.pk}"
        assert keeper.client.post("/admin/accounts/team/new/", new).status_code == 409
        joining = {"join-person": str(mate.user.pk)}
        assert keeper.client.post(f"{address}/command/join/", joining).status_code == 302
        set_budget(
            caller=keeper.caller, name="Blue money", scope_kind="team", scope=str(row.pk), limit_tokens=10
        )
        shown = page(keeper.client, f"{address}/change/")
        assert "Mia &lt;i&gt;Mate&lt;/i&gt;" in shown
        assert "Blue money" in shown
        assert "accounts.TeamMembersChanged" in shown
        tree = page(keeper.client, "/admin/governance/budget/")
        assert f'href="{address}/change/">team: Blue</a>' in tree
        leaving = {"leave-person": str(keeper.user.pk)}
        assert keeper.client.post(f"{address}/command/leave/", leaving).status_code == 302
        assert keeper.client.post(f"{address}/command/rename/", {"rename-name": "Azure"}).status_code == 302
        assert "Azure" in page(mate.client, "/admin/accounts/team/")
        assert keeper.client.post(f"{address}/command/close/").status_code == 400
        row.refresh_from_db()
        assert not row.closed
        assert keeper.client.post(f"{address}/command/close/", {"close-sure": "on"}).status_code == 302
        assert "There is no team." in page(keeper.client, "/admin/accounts/team/")
        assert "It is closed" in page(keeper.client, f"{address}/change/")

    @pytest.mark.parametrize("role", ["member", *ROLES])
    def test_are_changed_by_administrators_alone(self, role: str, team: UUID) -> None:
        team_id = create_team(caller=guardian(team, "admin").caller, name="Blue")
        one = guardian(team, role)
        for address in (
            "/admin/accounts/team/new/",
            *(f"/admin/accounts/team/{team_id}/command/{act}/" for act in ("join", "leave", "rename")),
        ):
            expected = {400} if role == "admin" else {403, 404} if role == "member" else {403}
            assert one.client.post(address).status_code in expected, address
        assert one.client.get("/admin/accounts/team/").status_code == (403 if role == "member" else 200)
        assert one.client.get("/admin/accounts/team/add/").status_code == 403

    def test_of_other_workspaces_are_not_there(self, team: UUID) -> None:
        theirs = new_workspace()
        team_id = create_team(caller=guardian(theirs, "admin").caller, name="Theirs")
        keeper = guardian(team, "admin")
        assert "Theirs" not in page(keeper.client, "/admin/accounts/team/")
        assert keeper.client.get(f"/admin/accounts/team/{team_id}/change/").status_code == 302
        assert keeper.client.post(f"/admin/accounts/team/{team_id}/command/close/").status_code == 404
        assert keeper.client.get(f"/admin/accounts/team/?workspace={theirs}").status_code == 403


class TestDecisions:
    @pytest.mark.parametrize("role", ROLES)
    def test_shows_exact_requests_to_who_reads_them_over_rest_too(self, role: str, team: UUID) -> None:
        approval = asks_for_python(team, {"code": "print('sesame')"})
        keeper = guardian(team, role)
        shown = page(keeper.client, f"/admin/governance/policydecision/{approval.decision_id}/change/")
        assert ("sesame" in shown) == (role in {"admin", "auditor", "reviewer"})

    def test_shows_rules_approval_and_events(self, team: UUID) -> None:
        approval = asks_for_python(team)
        shown = page(
            guardian(team, "auditor").client,
            f"/admin/governance/policydecision/{approval.decision_id}/change/",
        )
        rule = PolicyRule.objects.get(workspace_id=team, name=approval.rule)
        for said in (
            f"/admin/governance/approval/{approval.pk}/change/",
            f"/admin/governance/policyrule/{rule.pk}/change/",
            f"{approval.rule}: matched",
            "governance.DecisionMade",
            "Decide again",
        ):
            assert said in shown, said

    def test_names_the_budgets_that_it_concerns(self, team: UUID) -> None:
        keeper = guardian(team, "admin")
        budget_id, _ = set_budget(caller=keeper.caller, name="Team's", scope_kind="workspace", limit_tokens=9)
        decision = decision_of(asks_for_python(team))
        PolicyDecision.objects.filter(pk=decision.pk).update(
            reserved=[{"budget": str(budget_id), "period_start": "", "tokens": 7, "micros": 0}],
            warnings=[budget_id],
        )
        shown = page(keeper.client, f"/admin/governance/policydecision/{decision.pk}/change/")
        assert f"/admin/governance/budget/{budget_id}/change/" in shown
        assert "Team&#x27;s</a>: 7 tokens, 0 USD held back, at its warning" in shown

    def test_comes_out_the_same_when_decided_again(self, team: UUID) -> None:
        approval = asks_for_python(team)
        address = f"/admin/governance/policydecision/{approval.decision_id}/again/"
        assert "The verdict is the same." in page(guardian(team, "auditor").client, address)
