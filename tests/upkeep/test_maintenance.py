"""What each job clears away, and what it leaves."""

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from django.contrib.sessions.models import Session
from django.db import connection
from django.utils import timezone

from cartrita.eventstore import in_database_thread, load, new_id, run_following
from cartrita.eventstore.aio import async_resources
from cartrita.orchestrator.claims import Claims, reap_claims
from cartrita.orchestrator.maintenance import release_dead_reservations
from cartrita.streaming.deltas import delete_old_texts
from cartrita.upkeep.commands import delete_ended_logins
from governance.commands.acts import settle_lost
from governance.decision import ActSettled
from governance.models import PolicyDecision
from governance.step import take_step
from sessions_app import activity
from sessions_app.commands import create_session, post_message, post_reply
from sessions_app.models import SessionPresence
from tests.databases import Database
from tests.governance.policies import rule
from tests.governance.steps import Place, balance

pytestmark = pytest.mark.usefixtures("database")

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
def place(database: Database) -> Place:
    made = Place()
    made.follows(rule("all", "allow"))
    return made


class TestSettleLost:
    def test_books_what_an_act_may_have_cost_that_nobody_ends(self, place: Place) -> None:
        budget = place.has_budget(tokens=100)
        act = place.act(tokens=10)
        take_step(context=place.context, acts=[act], now=NOW)
        assert balance(budget) == (10, 0)
        assert settle_lost(now=NOW + timedelta(minutes=59), at_work=lambda _: ()) == 0
        assert settle_lost(now=NOW + timedelta(minutes=61), at_work=lambda _: ()) == 1
        assert settle_lost(now=NOW + timedelta(minutes=61), at_work=lambda _: ()) == 0
        assert balance(budget) == (0, 10)
        ended = load(act.decision_id)[-1].event
        assert isinstance(ended, ActSettled)
        assert (ended.outcome, ended.estimated) == ("unknown", True)

    def test_leaves_acts_to_those_who_go_on_with_their_session(self, place: Place) -> None:
        budget = place.has_budget(tokens=100)
        take_step(context=place.context, acts=[place.act(tokens=10)], now=NOW)
        later = NOW + timedelta(days=2)
        assert settle_lost(now=later, at_work=lambda session_ids: session_ids) == 0
        assert balance(budget) == (10, 0)

    def test_leaves_acts_that_hold_nothing_back(self, place: Place) -> None:
        take_step(context=place.context, acts=[place.act(tokens=10)], now=NOW)
        assert settle_lost(now=NOW + timedelta(days=2), at_work=lambda _: ()) == 0
        assert PolicyDecision.objects.get().act_outcome == ""

    def test_takes_searches_outside_sessions(self, place: Place) -> None:
        budget = place.has_budget(tokens=100, scope_kind="workspace")
        take_step(context=place.context, acts=[place.act(tokens=10, session_id=None)], now=NOW)
        assert settle_lost(now=NOW + timedelta(hours=2), at_work=lambda session_ids: session_ids) == 1
        assert balance(budget) == (0, 10)

    def test_knows_from_the_sessions_who_goes_on(self, place: Place) -> None:
        budget = place.has_budget(tokens=100)
        create_session(
            user_id=place.user_id,
            workspace_id=place.workspace_id,
            session_id=place.session_id,
            actor="system",
        )
        message_id = new_id()
        post_message(
            session_id=place.session_id,
            message_id=message_id,
            role="user",
            content="Hello",
            actor=f"user:{place.user_id}",
        )
        two_hours_ago = timezone.now() - timedelta(hours=2)
        take_step(context=place.context, acts=[place.act(tokens=10)], now=two_hours_ago)
        run_following()
        assert release_dead_reservations() == 0
        post_reply(
            session_id=place.session_id,
            message_id=new_id(),
            parent=message_id,
            plan_id=new_id(),
            run_id=new_id(),
            content="Hello.",
            model="scripted",
            actor="agent:assistant",
        )
        assert release_dead_reservations() == 1
        assert balance(budget) == (0, 10)


class TestReapClaims:
    async def test_leaves_the_claims_of_those_that_live(self) -> None:
        async with async_resources(), Claims() as claims:
            alive, dead = uuid4(), uuid4()
            assert await claims.take(alive)
            assert await claims.take(dead)
            await in_database_thread(_age, dead)
            assert await in_database_thread(reap_claims) == 1
            assert await claims.still_held(alive)
            assert not await claims.still_held(dead)
            assert await in_database_thread(reap_claims) == 0


def _age(session_id: UUID) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "update orchestrator_claim set renewed_at = renewed_at - interval '61 seconds'"
            " where session_id = %s",
            [session_id],
        )


class TestDeleteEndedLogins:
    def test_leaves_those_that_may_still_be_used(self) -> None:
        for key, days in (("ended", -1), ("lasting", 1)):
            Session.objects.create(
                session_key=key, session_data="", expire_date=timezone.now() + timedelta(days=days)
            )
        assert delete_ended_logins(now=timezone.now()) == 1
        assert Session.objects.get().session_key == "lasting"


class TestDeleteOldSigns:
    def test_leaves_those_of_the_last_day(self) -> None:
        recent = uuid4()
        SessionPresence.objects.create(session_id=uuid4(), seen_at=NOW - timedelta(hours=25))
        SessionPresence.objects.create(session_id=recent, seen_at=NOW - timedelta(hours=23))
        assert activity.delete_old_signs(now=NOW) == 1
        assert SessionPresence.objects.get().session_id == recent


class TestDeleteOldTexts:
    def test_leaves_texts_that_are_being_written(self) -> None:
        with connection.cursor() as cursor:
            for completed, touched in ((61, 61), (None, 3601), (59, 59), (None, 10)):
                cursor.execute(
                    "insert into streaming_message"
                    " (message_id, session_id, attempt, length, completed_at, touched_at)"
                    " values (%s, %s, 1, 0,"
                    " clock_timestamp() - make_interval(secs => %s),"
                    " clock_timestamp() - make_interval(secs => %s))",
                    [uuid4(), uuid4(), completed, touched],
                )
        assert delete_old_texts() == 2
        assert delete_old_texts() == 0
