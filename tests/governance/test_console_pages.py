"""What every page of the console has: names for tables, times with their zone, counts in good English."""

import re
from typing import Any
from uuid import UUID

import pytest

from governance.commands.backtests import request_back_test
from governance.commands.break_glass import open_break_glass
from governance.commands.budgets import set_budget
from governance.models import PolicyDecision, PolicyRule, PolicyVersion
from governance.step import take_step
from sessions_app.commands import create_session
from tests.databases import Database
from tests.governance.consoles import Guardian, asks_for_python, guardian, new_workspace
from tests.governance.policies import rule
from tests.governance.steps import Place

pytestmark = pytest.mark.flow

TABLE = re.compile(r"<table\b(?![^>]*\bid=\"result_list\")[^>]*>(?P<inside>.{0,300})", re.DOTALL)
TIME = re.compile(r"\b\d{4}-\d\d-\d\d \d\d:\d\d(?::\d\d)?\b(?!:)(?P<after>.{0,8})", re.DOTALL)
THINGS = "tokens|acts|rules|decisions|requests|sessions|hours|minutes|people|rows|events|days"
ONE_OF_MANY = re.compile(rf"(?<![\d.,:/-])\b1 ({THINGS})\b")
NOTICE = 'class="errornote break-glass"'
REASON = "The gateway is down, and customers wait."
# An example in a form's help.
EXAMPLE = "2026-01-31 08:00"


@pytest.fixture
def team(database: Database) -> UUID:
    return new_workspace()


@pytest.fixture
def keeper(team: UUID) -> Guardian:
    return guardian(team, "admin", name="Ann Keeper")


@pytest.fixture
def addresses(team: UUID, keeper: Guardian) -> list[str]:
    """Return all pages of governance, on rows that commands made."""
    approval = asks_for_python(team, requester_id=keeper.user.pk)
    budget_id, _ = set_budget(
        caller=keeper.caller, name="All", scope_kind="workspace", limit_tokens=1, limit_micros=1_000_000
    )
    glass_id, _ = open_break_glass(caller=keeper.caller, reason=REASON, minutes=1)
    back_test_id, _ = request_back_test(workspace_id=team, caller=keeper.caller)
    first = PolicyRule.objects.filter(workspace_id=team)[0]
    version = PolicyVersion.objects.get(workspace_id=team)
    return [
        "governance/approval/",
        f"governance/approval/{approval.pk}/change/",
        "governance/backtest/",
        f"governance/backtest/{back_test_id}/change/",
        "governance/backtest/new/",
        "governance/breakglass/",
        f"governance/breakglass/{glass_id}/change/",
        "governance/breakglass/new/",
        "governance/budget/",
        f"governance/budget/{budget_id}/change/",
        "governance/budget/new/",
        "governance/policydecision/",
        f"governance/policydecision/{approval.decision_id}/change/",
        f"governance/policydecision/{approval.decision_id}/again/",
        "governance/policyrule/",
        f"governance/policyrule/{first.pk}/change/",
        "governance/policyrule/coverage/",
        "governance/policyrule/import/",
        "governance/policyrule/new/",
        "governance/policyrule/shadow/",
        "governance/policyrule/try/",
        "governance/policyversion/",
        f"governance/policyversion/{version.pk}/change/",
        "accounts/team/",
        "accounts/team/new/",
        "eventstore/orderedevent/",
        "sessions_app/chatsession/",
        "",
    ]


def page(person: Guardian, address: str) -> str:
    answer: Any = person.client.get(f"/admin/{address}")
    assert answer.status_code == 200, address
    return str(answer.content.decode())


class TestEveryPage:
    def test_is_told_at_its_top_that_break_glass_is_open(
        self, keeper: Guardian, addresses: list[str]
    ) -> None:
        told = {
            address: page(keeper, address).count('class="errornote break-glass"') for address in addresses
        }
        assert set(told.values()) == {1}, told

    def test_names_its_tables(self, keeper: Guardian, addresses: list[str]) -> None:
        for address in addresses:
            content = page(keeper, address).partition('<div id="content"')[2]
            if "console-page" in content and "changelist-form" not in content:
                bare = [
                    each["inside"] for each in TABLE.finditer(content) if "<caption" not in each["inside"]
                ]
                assert bare == [], address

    def test_writes_times_with_their_zone(self, keeper: Guardian, addresses: list[str]) -> None:
        for address in addresses:
            content = page(keeper, address)
            assert not re.search(r"\b[ap]\.m\.", content), address
            bare = [each[0] for each in TIME.finditer(content) if "UTC" not in each["after"]]
            assert [each for each in bare if not each.startswith(EXAMPLE)] == [], address

    def test_counts_one_thing_as_one(self, keeper: Guardian, addresses: list[str]) -> None:
        for address in addresses:
            text = re.sub(r"<[^>]+>", " ", page(keeper, address))
            assert ONE_OF_MANY.findall(text) == [], address

    def test_calls_people_by_their_names_where_events_are_listed(
        self, keeper: Guardian, addresses: list[str]
    ) -> None:
        (glass,) = (each for each in addresses if re.search("breakglass/.+/change", each))
        events = page(keeper, glass).partition('<ol class="events">')[2]
        assert "Ann Keeper" in events
        assert str(keeper.user.pk) not in events.partition("</ol>")[0]


class TestUnderBreakGlass:
    @pytest.fixture
    def place(self, team: UUID, keeper: Guardian) -> Place:
        session_id = create_session(user_id=keeper.user.pk, workspace_id=team, actor=f"user:{keeper.user.pk}")
        place = Place(workspace_id=team, session_id=session_id, user_id=keeper.user.pk)
        no_send = rule("no-send", "deny", "tool.name == 'send'", breakable=True)
        place.follows(no_send, rule("ok", "allow", priority=9000))
        open_break_glass(caller=keeper.caller, reason=REASON, minutes=30)
        return place

    def test_the_page_of_a_decision_says_who_opened_it_and_why(self, keeper: Guardian, place: Place) -> None:
        (decided,) = take_step(context=place.context, acts=[place.act("send")])
        shown = page(keeper, f"governance/policydecision/{decided.decision_id}/change/")
        assert f"UTC, by Ann Keeper: “{REASON}”</a>" in shown
        assert "deny by no-send" in shown

    def test_the_page_of_a_session_says_what_it_let_pass(self, keeper: Guardian, place: Place) -> None:
        address = f"sessions_app/chatsession/{place.session_id}/change/"
        shown = page(keeper, address)
        assert " UTC, by Ann Keeper</a>" in shown
        assert "it let 1" not in shown
        take_step(context=place.context, acts=[place.act("send"), place.act("other")])
        assert ">it let 1 act pass</a>" in page(keeper, address)


class TestDecision:
    def test_is_told_in_words(self, keeper: Guardian, team: UUID) -> None:
        approval = asks_for_python(team, requester_id=keeper.user.pk)
        PolicyDecision.objects.filter(pk=approval.decision_id).update(
            cost_limit_before=5_000_000, cost_limit_after=4_500_000, act_tokens=1, act_cost_micros=500_000
        )
        shown = page(keeper, f"governance/policydecision/{approval.decision_id}/change/")
        for said in ("Ann Keeper", "approvers: ", "5 USD before, 4.5 USD after", "1 token, 0.5 USD"):
            assert said in shown, said

    def test_can_be_looked_for_by_what_came_of_it(self, keeper: Guardian, team: UUID) -> None:
        asks_for_python(team)
        asks_for_python(team)
        PolicyDecision.objects.filter(workspace_id=team).update(act_outcome="")
        first = PolicyDecision.objects.filter(workspace_id=team)[0]
        PolicyDecision.objects.filter(pk=first.pk).update(act_outcome="succeeded")
        assert re.search(
            r'<a href="\?act_outcome=">\s*nothing yet</a>', page(keeper, "governance/policydecision/")
        )
