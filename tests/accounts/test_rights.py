"""Workspaces, memberships and tokens: pure decisions."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cartrita.accounts import api_token, workspace
from cartrita.accounts.api_token import ApiTokenIssued, ApiTokenRevoked, ScopeNotGrantable, TokenNotFound
from cartrita.accounts.workspace import (
    LastAdmin,
    MemberAdded,
    MemberNotFound,
    MemberRemoved,
    MemberRolesChanged,
)
from cartrita.errors import BadInput
from cartrita.eventstore.types import Event

ANN = UUID(int=1)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


class TestWorkspace:
    @pytest.mark.parametrize("name", ["", "  ", "x" * 151])
    def test_needs_a_name(self, name: str) -> None:
        with pytest.raises(BadInput) as caught:
            workspace.create(name=name)
        assert caught.value.field == "name"


class TestMembership:
    def test_begins_with_the_first_roles(self) -> None:
        events = workspace.set_roles(workspace.Membership(), user_id=ANN, roles=["reviewer", "member"])
        assert events == [MemberAdded(user_id=ANN, roles=("member", "reviewer"))]

    def test_records_nothing_when_the_roles_are_the_same(self) -> None:
        membership = workspace.fold([MemberAdded(user_id=ANN, roles=("member",))])
        assert workspace.set_roles(membership, user_id=ANN, roles={"member"}) == []

    def test_changes_roles(self) -> None:
        membership = workspace.fold([MemberAdded(user_id=ANN, roles=("member",))])
        assert workspace.set_roles(membership, user_id=ANN, roles={"admin"}) == [
            MemberRolesChanged(user_id=ANN, roles=("admin",))
        ]

    @pytest.mark.parametrize("roles", [[], ["root"], ["member", "root"]])
    def test_refuses_unknown_roles(self, roles: list[str]) -> None:
        with pytest.raises(BadInput) as caught:
            workspace.set_roles(workspace.Membership(), user_id=ANN, roles=roles)
        assert caught.value.field == "roles"
        assert ("root" in caught.value.message) == ("root" in roles)

    def test_of_the_last_administrator_stays(self) -> None:
        admin = workspace.fold([MemberAdded(user_id=ANN, roles=("member", "admin"))])
        for demoted in (["member"], ["reviewer", "operator"]):
            with pytest.raises(LastAdmin):
                workspace.set_roles(admin, user_id=ANN, roles=demoted, others_administer=False)
            assert workspace.set_roles(admin, user_id=ANN, roles=demoted, others_administer=True)
        with pytest.raises(LastAdmin):
            workspace.remove(admin, user_id=ANN, others_administer=False)
        assert workspace.set_roles(admin, user_id=ANN, roles=["admin"], others_administer=False)
        member = workspace.fold([MemberAdded(user_id=ANN, roles=("member",))])
        assert workspace.remove(member, user_id=ANN, others_administer=False)

    def test_ends_and_may_begin_again(self) -> None:
        history: list[Event] = [MemberAdded(user_id=ANN, roles=("member",))]
        history += workspace.remove(workspace.fold(history), user_id=ANN)
        assert history[-1] == MemberRemoved(user_id=ANN)
        with pytest.raises(MemberNotFound):
            workspace.remove(workspace.fold(history), user_id=ANN)
        [again] = workspace.set_roles(workspace.fold(history), user_id=ANN, roles=["member"])
        assert isinstance(again, MemberAdded)

    @given(st.lists(st.sets(st.sampled_from(sorted(workspace.ROLES)), min_size=1), max_size=6))
    def test_holds_the_roles_that_were_set_last(self, changes: list[set[str]]) -> None:
        history: list[Event] = []
        for roles in changes:
            history += workspace.set_roles(workspace.fold(history), user_id=ANN, roles=roles)
            assert workspace.fold(history).roles == roles


def issue(**fields: object) -> ApiTokenIssued:
    values: dict[str, object] = {
        "user_id": ANN,
        "name": "build",
        "scopes": ["read"],
        "grantable": api_token.SCOPES,
        "secret_sha256": "0" * 64,
        "now": NOW,
        "expires_at": None,
        **fields,
    }
    [event] = api_token.issue(**values)  # type: ignore[arg-type]
    assert isinstance(event, ApiTokenIssued)
    return event


class TestApiToken:
    def test_ends_after_90_days_by_itself(self) -> None:
        assert issue().expires_at == NOW + timedelta(days=90)

    @pytest.mark.parametrize("offset", [timedelta(0), -timedelta(seconds=1), timedelta(days=367)])
    def test_ends_in_the_near_future(self, offset: timedelta) -> None:
        with pytest.raises(BadInput) as caught:
            issue(expires_at=NOW + offset)
        assert caught.value.field == "expires_at"

    @pytest.mark.parametrize("scopes", [[], ["everything"]])
    def test_names_known_scopes(self, scopes: list[str]) -> None:
        with pytest.raises(BadInput) as caught:
            issue(scopes=scopes)
        assert caught.value.field == "scopes"

    def test_hands_on_no_more_than_its_issuer_has(self) -> None:
        member = api_token.grantable_scopes(roles=frozenset({"member"}), held=api_token.SCOPES)
        with pytest.raises(ScopeNotGrantable):
            issue(scopes=["act_as"], grantable=member)
        admin = api_token.grantable_scopes(roles=frozenset({"admin"}), held=frozenset({"read"}))
        with pytest.raises(ScopeNotGrantable):
            issue(scopes=["write"], grantable=admin)

    def test_is_revoked_once_and_by_its_owner_only(self) -> None:
        token = api_token.fold([issue()])
        assert api_token.revoke(token, user_id=ANN) == [ApiTokenRevoked(user_id=ANN)]
        assert api_token.revoke(api_token.evolve(token, ApiTokenRevoked(user_id=ANN)), user_id=ANN) == []
        with pytest.raises(TokenNotFound):
            api_token.revoke(token, user_id=UUID(int=2))
