"""When a second person must agree: counted from who held a role lately, not from who holds it now."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID

import pytest
import time_machine
from django.core.management import call_command
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from cartrita.accounts.commands import erase_person, remove_member, set_roles
from cartrita.accounts.models import User
from cartrita.accounts.queries import Caller, caller_in_workspace
from governance import rulebook as rulebooks
from governance.approval import OwnRequest
from governance.break_glass import REVIEWERS
from governance.commands import approvals, policies
from governance.four_eyes import COOLING, FourEyes, four_eyes_of
from governance.models import Approval
from governance.queries import policies as policy_queries
from governance.queries.approvals import agreed
from governance.queries.four_eyes import four_eyes
from governance.rulebook import APPROVERS, SecondPersonNeeded
from tests.accounts.people import Person, someone
from tests.databases import Database
from tests.governance.approvals import Terms, as_caller, waiting
from tests.governance.policies import rule

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
ANN, BOB, EVE = (UUID(int=number) for number in range(1, 4))
PEOPLE = (ANN, BOB, EVE)
SECOND = timedelta(seconds=1)
NUMBERS = count()


def ago(**past: float) -> datetime:
    return NOON - timedelta(**past)


class TestFourEyesOf:
    def test_are_off_while_one_person_alone_ever_held_a_role(self) -> None:
        assert four_eyes_of({ANN: None}, now=NOON) == FourEyes(on=False, holders=frozenset({f"user:{ANN}"}))
        assert four_eyes_of({}, now=NOON) == FourEyes(on=False)

    def test_are_on_without_an_end_while_two_hold_one(self) -> None:
        held = {ANN: None, BOB: None, EVE: ago(days=1)}
        assert four_eyes_of(held, now=NOON) == FourEyes(
            on=True, holders=frozenset({f"user:{ANN}", f"user:{BOB}"})
        )

    def test_stay_on_for_the_cooling_time(self) -> None:
        held = {ANN: None, BOB: ago(days=2), EVE: ago(days=3)}
        assert four_eyes_of(held, now=NOON) == FourEyes(
            on=True, holders=frozenset({f"user:{ANN}"}), until=ago(days=2) + COOLING
        )
        assert four_eyes_of(held, now=ago(days=2) + COOLING - SECOND).on
        assert not four_eyes_of(held, now=ago(days=2) + COOLING).on

    def test_count_those_who_held_it_one_after_the_other(self) -> None:
        held = {ANN: ago(days=5), BOB: ago(days=1)}
        assert four_eyes_of(held, now=NOON) == FourEyes(on=True, until=ago(days=5) + COOLING)

    @given(
        held=st.dictionaries(
            st.sampled_from(PEOPLE), st.none() | st.integers(0, 20).map(lambda days: ago(days=days))
        ),
        days=st.integers(0, 20),
    )
    def test_end_exactly_when_they_say(self, held: dict[UUID, datetime | None], days: int) -> None:
        now = NOON + timedelta(days=days)
        eyes = four_eyes_of(held, now=now)
        assert bool(eyes.remedy) == bool(eyes.details) == (eyes.until is not None)
        if eyes.until is None:
            assert eyes.on == (len(eyes.holders) > 1)
        else:
            assert eyes.until > now
            assert eyes.on
            assert four_eyes_of(held, now=eyes.until - SECOND).on
            assert not four_eyes_of(held, now=eyes.until).on


pytestmark = pytest.mark.flow


@pytest.fixture
def ann(database: Database) -> Iterator[Person]:
    yield someone(roles=("member", "admin"))
    with database.as_owner():
        call_command("rebuild_projections", check=True)


@pytest.fixture
def bob(ann: Person) -> Person:
    return someone("bob@example.org", workspace_id=ann.workspace_id, roles=("member", "reviewer"))


def roles(person: Person, *wanted: str) -> None:
    set_roles(workspace_id=person.workspace_id, user_id=person.id, roles=wanted, actor="system")


def removed(person: Person) -> None:
    remove_member(workspace_id=person.workspace_id, user_id=person.id, actor="system")


def suspended(person: Person) -> None:
    # As no command does it: the database alone sees to it.
    User.objects.filter(pk=person.id).update(is_active=False)


def erased(person: Person) -> None:
    erase_person(user_id=person.id, actor="system")


WAYS = [lambda person: roles(person, "member"), removed, suspended, erased]
NAMES = ["demoted", "removed", "suspended", "erased"]


def asks(person: Person) -> Caller:
    caller = caller_in_workspace(person.id, person.workspace_id)
    assert caller is not None
    return caller


def of(person: Person) -> dict[str, Any]:
    return {"workspace_id": person.workspace_id, "caller": asks(person)}


def drafted(person: Person) -> str:
    """Return the hash of a new draft."""
    match = {"kinds": ["tool_call"], "tools": ["one_more"]}
    policies.write_rule(definition=rule(f"one-more-{next(NUMBERS)}", match=match), **of(person))
    return policy_queries.draft(person.workspace_id).policy_hash


class TestInAWorkspace:
    @pytest.mark.parametrize("taken", WAYS, ids=NAMES)
    def test_stay_on_for_a_week_however_the_second_person_goes(
        self, ann: Person, bob: Person, taken: Any
    ) -> None:
        before = timezone.now()
        taken(bob)
        after = timezone.now()
        for wanted in (APPROVERS, REVIEWERS, frozenset({"admin", "reviewer"})):
            eyes = four_eyes(ann.workspace_id, wanted)
            assert eyes.on
            assert eyes.holders == {f"user:{ann.id}"}
            assert eyes.until is not None
            assert before - SECOND <= eyes.until - COOLING <= after + SECOND
            assert not four_eyes(ann.workspace_id, wanted, now=after + COOLING + SECOND).on

    def test_are_off_in_a_fresh_workspace(self, ann: Person) -> None:
        assert four_eyes(ann.workspace_id, APPROVERS) == FourEyes(
            on=False, holders=frozenset({f"user:{ann.id}"})
        )
        policies.activate(policy_hash=drafted(ann), **of(ann))

    def test_are_off_for_roles_that_one_alone_held(self, ann: Person, bob: Person) -> None:
        roles(bob, "member", "operator")
        assert not four_eyes(ann.workspace_id, {"admin"}).on

    def test_count_from_the_last_time_that_somebody_lost_the_role(self, ann: Person, bob: Person) -> None:
        for days in (10, 3):
            with time_machine.travel(timezone.now() - timedelta(days=days)):
                roles(bob, "member")
                lost = timezone.now()
                if days == 10:
                    assert four_eyes(ann.workspace_id, APPROVERS).on
            with time_machine.travel(lost + timedelta(hours=1)):
                if days == 10:
                    roles(bob, "member", "reviewer")
        until = four_eyes(ann.workspace_id, APPROVERS).until
        assert until is not None
        assert abs(until - COOLING - lost) < SECOND

    def test_are_kept_by_an_account_that_is_deleted(self, ann: Person, bob: Person) -> None:
        User.objects.filter(pk=bob.id).delete()
        assert four_eyes(ann.workspace_id, APPROVERS, now=timezone.now() + 2 * COOLING).on
        removed(bob)
        assert not four_eyes(ann.workspace_id, APPROVERS, now=timezone.now() + 2 * COOLING).on

    def test_are_not_switched_on_by_tidying_up_after_somebody(self, ann: Person, bob: Person) -> None:
        suspended(bob)
        later = timezone.now() + 2 * COOLING
        assert not four_eyes(ann.workspace_id, APPROVERS, now=later).on
        with time_machine.travel(later):
            removed(bob)
        assert not four_eyes(ann.workspace_id, APPROVERS, now=later + SECOND).on

    def test_do_not_let_a_suspension_be_dated_back(self, ann: Person, bob: Person) -> None:
        User.objects.filter(pk=bob.id).update(is_active=False, suspended_at=ago(days=30))
        User.objects.filter(pk=bob.id).update(suspended_at=ago(days=30))
        bob.user.refresh_from_db()
        assert bob.user.suspended_at is not None
        assert timezone.now() - bob.user.suspended_at < timedelta(minutes=5)
        assert four_eyes(ann.workspace_id, APPROVERS).on
        User.objects.filter(pk=bob.id).update(is_active=True)
        assert User.objects.get(pk=bob.id).suspended_at is None
        assert four_eyes(ann.workspace_id, APPROVERS).until is None


class TestAnAdminAlone:
    """Who gives roles takes the second person's, decides, and gives it back."""

    @pytest.mark.parametrize("taken", WAYS, ids=NAMES)
    def test_puts_no_policy_in_force(self, ann: Person, bob: Person, taken: Any) -> None:
        changed = drafted(ann)
        taken(bob)
        with pytest.raises(SecondPersonNeeded, match=r"propose this set first.*stay on until") as raised:
            policies.activate(policy_hash=changed, **of(ann))
        assert raised.value.details["four_eyes_until"]
        policies.propose(**of(ann))
        for act in (policies.activate, policies.shadow):
            with pytest.raises(SecondPersonNeeded, match=r"You proposed this set yourself.*stay on until"):
                act(policy_hash=changed, **of(ann))

    @pytest.mark.parametrize("taken", WAYS, ids=NAMES)
    def test_approves_no_request_of_their_own(self, ann: Person, bob: Person, taken: Any) -> None:
        mine = waiting(ann)
        taken(bob)
        with pytest.raises(OwnRequest, match=r"a second person must approve\. .*stay on until"):
            approvals.approve(approval_id=mine, caller=as_caller(ann))

    def test_goes_on_after_the_cooling_time(self, ann: Person, bob: Person) -> None:
        with time_machine.travel(timezone.now() - COOLING - timedelta(minutes=1)):
            roles(bob, "member")
        policies.activate(policy_hash=drafted(ann), **of(ann))
        assert policy_queries.version_in_force(ann.workspace_id).alone
        mine = waiting(ann)
        approvals.approve(approval_id=mine, caller=as_caller(ann))
        assert Approval.objects.get(id=mine).own


class TestWhoHoldsARoleNoMore:
    @pytest.mark.parametrize("taken", WAYS, ids=NAMES)
    def test_has_approved_in_vain(self, ann: Person, bob: Person, taken: Any) -> None:
        eve = someone("eve@example.org", workspace_id=ann.workspace_id, roles=("member", "reviewer"))
        changed = drafted(ann)
        policies.propose(**of(ann))
        policies.approve(policy_hash=changed, **of(bob))
        taken(bob)
        with pytest.raises(SecondPersonNeeded, match="approved this set and holds none of the roles"):
            policies.activate(policy_hash=changed, **of(ann))
        policies.approve(policy_hash=changed, **of(eve))
        policies.activate(policy_hash=changed, **of(ann))
        version = policy_queries.version_in_force(ann.workspace_id)
        assert (version.proposed_by, version.approved_by) == (f"user:{ann.id}", f"user:{eve.id}")

    def test_is_called_by_name(self, ann: Person, bob: Person) -> None:
        changed = drafted(ann)
        policies.propose(**of(ann))
        policies.approve(policy_hash=changed, **of(bob))
        roles(bob, "member")
        with pytest.raises(SecondPersonNeeded, match=r"^Bob approved this set"):
            policies.activate(policy_hash=changed, **of(ann))
        roles(bob, "member", "reviewer")
        policies.activate(policy_hash=changed, **of(ann))

    def test_has_proposed_in_vain(self, ann: Person, bob: Person) -> None:
        roles(bob, "member", "policy_author")
        eve = someone("eve@example.org", workspace_id=ann.workspace_id, roles=("member", "policy_author"))
        changed = drafted(bob)
        policies.propose(**of(bob))
        roles(bob, "member")
        with pytest.raises(SecondPersonNeeded, match="Bob proposed this set"):
            policies.activate(policy_hash=changed, **of(ann))
        policies.propose(**of(eve))
        policies.activate(policy_hash=changed, **of(ann))

    @pytest.mark.parametrize("taken", WAYS, ids=NAMES)
    def test_is_not_counted_for_a_quorum(self, ann: Person, bob: Person, taken: Any) -> None:
        dan = someone("dan@example.org", workspace_id=ann.workspace_id)
        eve = someone("eve@example.org", workspace_id=ann.workspace_id, roles=("member", "reviewer"))
        approval_id = waiting(dan, terms=Terms(quorum=2))
        approvals.approve(approval_id=approval_id, caller=as_caller(bob))
        assert agreed(Approval.objects.get(id=approval_id)) == 1
        taken(bob)
        approvals.approve(approval_id=approval_id, caller=as_caller(ann))
        row = Approval.objects.get(id=approval_id)
        assert (row.status, agreed(row)) == ("waiting", 1)
        approvals.approve(approval_id=approval_id, caller=as_caller(eve))
        assert Approval.objects.get(id=approval_id).status == "granted"


def test_rulebook_and_reviews_ask_the_same() -> None:
    assert rulebooks.APPROVERS >= REVIEWERS
