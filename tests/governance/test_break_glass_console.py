"""Break-glass in the console: its pages, forms and notices."""

from typing import Any
from uuid import UUID, uuid4

import pytest
from django.test import Client
from django.urls import reverse

from cartrita.eventstore import load
from governance.admin.rule_editor import FieldEditor
from governance.break_glass import BreakGlassEnded, BreakGlassOpened, BreakGlassReviewed
from governance.consumers import describe
from governance.models import BreakGlass
from governance.policy import compile_rule
from governance.step import Decided, take_step
from tests.databases import Database
from tests.governance.consoles import ROLES, Guardian, guardian, new_workspace
from tests.governance.policies import rule
from tests.governance.steps import Place

pytestmark = pytest.mark.flow

LIST = "/admin/governance/breakglass/"
REASON = "The gateway is <b>down</b>\u202e, and customers wait."
GIVEN = {"open-reason": REASON, "open-minutes": "30", "open-scope_kind": "workspace", "open-scope": ""}


@pytest.fixture
def team(database: Database) -> UUID:
    return new_workspace()


@pytest.fixture
def ann(team: UUID) -> Guardian:
    return guardian(team, "operator", name="Ann")


@pytest.fixture
def ben(team: UUID) -> Guardian:
    return guardian(team, "reviewer", name="Ben")


@pytest.fixture
def place(team: UUID, ann: Guardian) -> Place:
    made = Place(workspace_id=team, user_id=ann.user.pk)
    no_send = rule("no-send", "deny", "tool.name == 'send'", breakable=True)
    made.follows(no_send, rule("ok", "allow", priority=9000))
    return made


def page(client: Client, address: str, status: int = 200) -> str:
    response = client.get(address)
    assert response.status_code == status, address
    return response.content.decode()


def opened(person: Guardian, status: int = 302, **more: Any) -> BreakGlass | None:
    answer = person.client.post(f"{LIST}new/?workspace={person.workspace_id}", {**GIVEN, **more})
    assert answer.status_code == status, answer.content.decode()
    return BreakGlass.objects.filter(workspace_id=person.workspace_id).first()


def one(row: BreakGlass | None, act: str = "") -> str:
    assert row is not None
    return f"{LIST}{row.pk}/" + (f"command/{act}/" if act else "change/")


def passed(place: Place) -> Decided:
    (decided,) = take_step(context=place.context, acts=[place.act("send")])
    assert decided.permit is not None
    return decided


def last(row: BreakGlass | None) -> Any:
    assert row is not None
    return load(row.pk)[-1].event


class TestPages:
    def test_show_what_it_is_and_what_it_let_pass(self, place: Place, ann: Guardian, ben: Guardian) -> None:
        assert "was never open" in page(ann.client, LIST)
        row = opened(ann)
        assert isinstance(last(row), BreakGlassOpened)
        decided = passed(place)
        listed = page(ben.client, LIST)
        assert "&lt;b&gt;down&lt;/b&gt;⟦U+202E⟧" in listed
        assert str(decided.decision_id) in listed
        shown = page(ben.client, one(row))
        assert "no-send" in shown
        assert "<strong>deny</strong>" in shown
        assert "nobody yet" in shown
        decisions = (
            f"{reverse('admin:governance_policydecision_changelist')}?glass_id={row.pk if row else ''}"
        )
        assert decisions in shown
        assert str(decided.decision_id) in page(ben.client, decisions)
        decision = page(ben.client, f"/admin/governance/policydecision/{decided.decision_id}/change/")
        assert "Without break-glass" in decision
        assert "deny by no-send" in decision

    def test_are_open_to_those_who_look_after_the_workspace(self, team: UUID, ann: Guardian) -> None:
        row = opened(ann)
        stranger = guardian(new_workspace(), "admin")
        assert stranger.client.get(one(row)).status_code == 302
        assert stranger.client.post(one(row, "end"), {"end-note": ""}).status_code == 404
        assert stranger.client.get(f"{LIST}?workspace={team}").status_code == 403
        for role in ROLES:
            person = guardian(team, role)
            assert person.client.get(one(row)).status_code == 200
            status = 200 if role in {"operator", "admin"} else 403
            assert person.client.get(f"{LIST}new/?workspace={team}").status_code == status
            if role in {"policy_author", "auditor"}:
                assert person.client.post(one(row, "end"), {"end-note": ""}).status_code == 403
                assert "End it" not in page(person.client, one(row))
            if role not in {"reviewer", "admin"}:
                assert person.client.post(one(row, "review"), {}).status_code == 403
        assert guardian(team).client.get(LIST).status_code in {302, 403}
        assert last(row) == load(row.pk if row else uuid4())[0].event

    def test_are_told_to_all_who_look_after_the_workspace(self, ann: Guardian, ben: Guardian) -> None:
        addresses = ("/admin/governance/budget/", "/admin/governance/approval/")
        for address in addresses:
            assert "Break-glass is in force" not in page(ben.client, address)
        row = opened(ann)
        elsewhere = guardian(new_workspace(), "admin")
        for address in addresses:
            shown = page(ben.client, address)
            assert "Break-glass is in force for the whole workspace" in shown
            assert "opened by Ann" in shown
            assert "Break-glass is in force" not in page(elsewhere.client, address)
        ann.client.post(one(row, "end"), {"end-note": ""})
        assert "Break-glass is in force" not in page(ben.client, addresses[0])

    def test_are_told_to_open_inboxes(self, ann: Guardian) -> None:
        row = opened(ann)
        assert row is not None
        shown = describe(load(row.pk)[0])
        assert shown is not None
        assert (shown["glass_id"], shown["by"], shown["version"]) == (str(row.pk), f"user:{ann.user.pk}", 1)


class TestForms:
    def test_say_what_is_wrong(self, ann: Guardian) -> None:
        for more in (
            {"open-reason": "short"},
            {"open-reason": "x" * 20 + "\0"},
            {"open-minutes": "481"},
            {"open-scope_kind": "session", "open-scope": "x"},
            {"open-scope_kind": "user", "open-scope": "nobody@example.org"},
        ):
            assert opened(ann, 400, **more) is None
        assert opened(ann) is not None
        assert opened(ann, 409) is not None

    def test_take_a_persons_address(self, ann: Guardian, ben: Guardian) -> None:
        of_ben: dict[str, Any] = {"open-scope_kind": "user", "open-scope": ben.user.email}
        row = opened(ann, **of_ben)
        assert row is not None
        assert (row.scope_kind, row.scope) == ("user", str(ben.user.pk))
        assert "one person: Ben" in page(ben.client, one(row))

    def test_review_and_end(self, place: Place, ann: Guardian, ben: Guardian) -> None:
        row = opened(ann)
        decided = passed(place)
        assert "review-decisions" not in page(ann.client, one(row))
        assert "review-decisions" in page(ben.client, one(row))
        assert ben.client.post(one(row, "review"), {"review-note": "x"}).status_code == 400
        wrong = {"review-decisions": [str(uuid4())]}
        assert ben.client.post(one(row, "review"), wrong).status_code == 400
        chosen = {"review-decisions": [str(decided.decision_id)], "review-note": "It was right."}
        assert ben.client.post(one(row, "review"), chosen).status_code == 302
        assert last(row) == BreakGlassReviewed(
            decisions=(decided.decision_id,), by=f"user:{ben.user.pk}", note="It was right."
        )
        assert "It was right." in page(ann.client, one(row))
        assert "No act that break-glass let pass" in page(ann.client, LIST)
        assert ben.client.post(one(row, "end"), {"end-note": "It is back."}).status_code == 302
        assert last(row) == BreakGlassEnded(by=f"user:{ben.user.pk}", note="It is back.")
        late = ann.client.post(one(row, "end"), {"end-note": ""})
        assert (late.status_code, "Somebody else has ended it." in late.content.decode()) == (409, True)
        assert ann.client.get(one(row, "end")).status_code == 302
        assert ann.client.get(one(row, "open")).status_code == 404


class TestRuleEditor:
    def test_keeps_a_rule_breakable(self) -> None:
        held = compile_rule(rule("no", "deny", breakable=True))
        given = {f"rule-{name}": value for name, value in FieldEditor.holding(held).items()}
        assert FieldEditor(given).written() == held
        given["rule-breakable"] = ""
        assert FieldEditor(given).written() == compile_rule(rule("no", "deny"))
