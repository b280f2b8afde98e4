"""Who sees what in the governance console."""

from uuid import uuid4

import pytest
from django.test import Client

from cartrita.accounts.commands import create_workspace, ensure_user, set_roles
from cartrita.accounts.console import console_caller, names_of
from cartrita.accounts.models import User
from sessions_app import commands
from sessions_app.models import ChatSession
from tests.accounts.people import Person, someone
from tests.databases import Database

PAGES = (
    "accounts/team",
    "eventstore/orderedevent",
    "governance/approval",
    "governance/budget",
    "governance/policydecision",
    "governance/policyrule",
    "governance/policyversion",
    "llm/model",
    "retrieval/document",
    "retrieval/retrievalmetric",
    "sessions_app/chatsession",
    "sessions_app/message",
    "tasks_app/planrow",
    "tasks_app/taskrow",
    "tasks_app/runrow",
)


@pytest.fixture
def ann(database: Database) -> Person:
    return someone()


def staff(ann: Person, *roles: str) -> tuple[User, Client]:
    """Return somebody in Ann's workspace with these roles, signed in."""
    user = ensure_user(email=f"{uuid4().hex}@example.com", is_staff=True)
    if roles:
        set_roles(workspace_id=ann.workspace_id, user_id=user.id, roles=roles, actor="system")
    client = Client()
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return user, client


@pytest.mark.flow
class TestConsole:
    @pytest.mark.parametrize("role", ["reviewer", "operator", "admin", "policy_author", "auditor"])
    def test_shows_every_page_to_those_who_look_after_a_workspace(self, role: str, ann: Person) -> None:
        _, client = staff(ann, "member", role)
        for page in PAGES:
            assert client.get(f"/admin/{page}/").status_code == 200, page
            assert client.get(f"/admin/{page}/add/").status_code == 403, page

    @pytest.mark.parametrize("roles", [(), ("member",)])
    def test_shows_nothing_to_others(self, roles: tuple[str, ...], ann: Person) -> None:
        _, client = staff(ann, *roles)
        for page in PAGES:
            assert client.get(f"/admin/{page}/").status_code == 403, page

    def test_keeps_people_and_their_rights_to_superusers(self, ann: Person) -> None:
        _, client = staff(ann, "reviewer")
        for page in ("accounts/user", "accounts/apitoken", "accounts/membership"):
            assert client.get(f"/admin/{page}/").status_code == 403, page

    def test_names_people_and_leaves_other_actors_as_they_are(self, ann: Person) -> None:
        gone, odd = f"user:{uuid4()}", "user:nobody"
        assert names_of([f"user:{ann.id}", "system", gone, odd]) == {
            f"user:{ann.id}": "Ann",
            "system": "system",
            gone: gone,
            odd: odd,
        }

    def test_makes_callers_of_those_who_look_after_the_workspace(self, ann: Person) -> None:
        reviewer, _ = staff(ann, "member", "reviewer")
        member, _ = staff(ann, "member")
        found = console_caller(reviewer, ann.workspace_id)
        assert found is not None
        assert (found.user_id, found.roles) == (reviewer.pk, frozenset({"member", "reviewer"}))
        assert console_caller(member, ann.workspace_id) is None
        assert console_caller(reviewer, uuid4()) is None

    def test_shows_no_row_of_another_workspace(self, ann: Person) -> None:
        stranger = ensure_user(email="stranger@example.com")
        elsewhere = create_workspace(name="Elsewhere", owner_id=stranger.id, actor="system")
        theirs = commands.create_session(user_id=stranger.id, workspace_id=elsewhere, actor="system")
        ours = commands.create_session(user_id=ann.id, workspace_id=ann.workspace_id, actor="system")
        assert ChatSession.objects.count() == 2
        _, client = staff(ann, "reviewer")
        page = client.get("/admin/sessions_app/chatsession/").content.decode()
        assert str(ours) in page
        assert str(theirs) not in page
        assert client.get(f"/admin/sessions_app/chatsession/{ours}/change/").status_code == 200
        assert client.get(f"/admin/sessions_app/chatsession/{theirs}/change/").status_code == 302
