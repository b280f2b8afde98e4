"""manage.py members on a real database."""

from uuid import UUID, uuid4

import pytest
from django.core.management import CommandError, call_command
from django.test import Client

from cartrita.accounts.commands import create_workspace, ensure_user, erase_person
from cartrita.accounts.models import SignInLink, User
from cartrita.accounts.queries import roles_of

pytestmark = [pytest.mark.flow, pytest.mark.usefixtures("database")]


@pytest.fixture
def owner(database: object) -> User:
    return ensure_user(email="ann@example.org", display_name="Ann")


@pytest.fixture
def team(owner: User) -> UUID:
    return create_workspace(name="Team", owner_id=owner.pk, actor="system")


class TestSet:
    def test_adds_somebody_new_who_signs_in_by_the_link(
        self, team: UUID, capsys: pytest.CaptureFixture[str]
    ) -> None:
        call_command("members", "set", "Bob@example.org", roles="reviewer, member", name="Bob", console=True)
        bob = User.objects.get(email="bob@example.org")
        assert (bob.display_name, bob.is_staff, bob.is_superuser) == ("Bob", True, False)
        assert roles_of(bob.pk, team) == {"member", "reviewer"}
        said = capsys.readouterr().out
        assert "bob@example.org is member, reviewer in Team." in said
        client = Client()
        client.get("/sign-in/" + said.rpartition("/sign-in/")[2].strip())
        assert client.get("/api/v2/sessions").status_code == 200
        assert not SignInLink.objects.exists()

    def test_changes_the_roles_of_a_member(self, team: UUID) -> None:
        for roles in ("member,operator", "member,auditor"):
            call_command("members", "set", "bob@example.org", roles=roles)
        bob = User.objects.get(email="bob@example.org")
        assert roles_of(bob.pk, team) == {"member", "auditor"}
        assert not bob.is_staff

    def test_names_roles_that_do_not_exist_and_adds_nobody(self, team: UUID) -> None:
        with pytest.raises(CommandError, match=r"no role boss; the roles are member, reviewer"):
            call_command("members", "set", "bob@example.org", roles="member,boss")
        assert not User.objects.filter(email="bob@example.org").exists()

    def test_lets_nobody_in_who_may_not_sign_in(self, team: UUID) -> None:
        User.objects.create_user("bob@example.org", is_active=False)
        with pytest.raises(CommandError, match="may not sign in"):
            call_command("members", "set", "bob@example.org", roles="member")

    def test_says_where_somebody_acts_who_belongs_to_another_workspace(
        self, team: UUID, capsys: pytest.CaptureFixture[str]
    ) -> None:
        bob = ensure_user(email="bob@example.org")
        create_workspace(name="Elsewhere", owner_id=bob.pk, actor="system")
        call_command("members", "set", "bob@example.org", roles="member", workspace=team)
        assert "joined earlier" in capsys.readouterr().out


class TestLastAdministrator:
    def test_is_neither_demoted_nor_removed(self, team: UUID, owner: User) -> None:
        with pytest.raises(CommandError, match="only administrator"):
            call_command("members", "set", "ann@example.org", roles="member")
        with pytest.raises(CommandError, match="only administrator"):
            call_command("members", "remove", "ann@example.org")
        assert roles_of(owner.pk, team) == {"member", "admin"}

    def test_is_not_the_last_beside_another(self, team: UUID, owner: User) -> None:
        call_command("members", "set", "bob@example.org", roles="admin")
        call_command("members", "remove", "ann@example.org")
        assert roles_of(owner.pk, team) == frozenset()

    def test_is_the_last_beside_one_who_may_not_sign_in(self, team: UUID) -> None:
        call_command("members", "set", "bob@example.org", roles="admin")
        User.objects.filter(email="bob@example.org").update(is_active=False)
        with pytest.raises(CommandError, match="only administrator"):
            call_command("members", "remove", "ann@example.org")

    def test_may_be_erased(self, team: UUID, owner: User) -> None:
        erase_person(user_id=owner.pk, actor="system")
        assert roles_of(owner.pk, team) == frozenset()


class TestRemove:
    def test_takes_a_member_out(self, team: UUID) -> None:
        call_command("members", "set", "bob@example.org", roles="member")
        call_command("members", "remove", "BOB@example.org")
        assert roles_of(User.objects.get(email="bob@example.org").pk, team) == frozenset()

    def test_says_who_is_no_member(self, team: UUID) -> None:
        with pytest.raises(CommandError, match="Nobody has the address"):
            call_command("members", "remove", "bob@example.org")
        ensure_user(email="bob@example.org")
        with pytest.raises(CommandError, match="no member"):
            call_command("members", "remove", "bob@example.org")


class TestList:
    def test_shows_the_members_of_the_only_workspace(
        self, team: UUID, capsys: pytest.CaptureFixture[str]
    ) -> None:
        call_command("members", "set", "bob@example.org", roles="reviewer", console=True)
        capsys.readouterr()
        call_command("members", "list")
        assert capsys.readouterr().out.splitlines() == [
            f"Team {team}",
            "  ann@example.org: member, admin",
            "  bob@example.org: reviewer (console)",
        ]

    def test_asks_which_of_several_workspaces(self, team: UUID, owner: User) -> None:
        other = create_workspace(name="Other", owner_id=owner.pk, actor="system")
        with pytest.raises(CommandError, match=rf"(?s)--workspace.*{other} Other.*{team} Team"):
            call_command("members", "list")
        call_command("members", "list", workspace=team)

    def test_says_that_a_workspace_is_unknown(self, team: UUID) -> None:
        with pytest.raises(CommandError, match=rf"(?s)no workspace.*{team} Team"):
            call_command("members", "list", workspace=uuid4())

    def test_says_that_there_is_none_yet(self) -> None:
        with pytest.raises(CommandError, match="no workspace yet"):
            call_command("members", "list")
