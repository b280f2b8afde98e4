"""Teams and the settings of a workspace: purely, on the real database, over REST and from a terminal."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import StringIO
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client

from cartrita.accounts import team as teams
from cartrita.accounts import team_commands as commands
from cartrita.accounts import team_queries as queries
from cartrita.accounts.commands import change_workspace_settings, erase_person, remove_member
from cartrita.accounts.models import TeamMember, Workspace
from cartrita.accounts.permissions import RoleMissing
from cartrita.accounts.queries import Caller, caller_in_workspace
from cartrita.accounts.team import (
    MOST_MEMBERS,
    MOST_TEAMS_OF_A_PERSON,
    Team,
    TeamCreated,
    TeamIsClosed,
    TeamMembersChanged,
    TeamNameTaken,
    TeamNotFound,
    TeamRenamed,
)
from cartrita.accounts.workspace import (
    MemberNotFound,
    Settings,
    WorkspaceSettingsChanged,
    change_settings,
    settings_of,
)
from cartrita.errors import BadInput
from cartrita.eventstore import StreamMoved, load, rebuild
from tests.accounts.people import Person, someone
from tests.databases import Database

ANN, BEN = UUID(int=1), UUID(int=2)
BLUE = Team(name="Blue", members=frozenset({ANN}), version=2)


class TestTeam:
    def test_folds_to_who_is_in_it(self) -> None:
        events = [
            TeamCreated(name="Blue"),
            TeamMembersChanged(joined=(ANN, BEN)),
            TeamMembersChanged(left=(ANN,)),
            TeamRenamed(name="Azure"),
        ]
        assert teams.fold(events) == Team(name="Azure", members=frozenset({BEN}), version=4)

    def test_changes_nothing_that_is_so_already(self) -> None:
        assert teams.rename(BLUE, name=" Blue ", taken=[]) == []
        assert teams.change_members(BLUE, joining=[ANN], leaving=[BEN]) == []
        assert teams.close(replace(BLUE, closed=True)) == []

    @pytest.mark.parametrize("name", ["", "  ", "x" * 101, "a\u202eb", "a\0b"])
    def test_needs_a_name_that_people_can_read(self, name: str) -> None:
        with pytest.raises(BadInput):
            teams.create(name=name, taken=[])

    def test_has_a_name_of_its_own_whatever_its_case(self) -> None:
        with pytest.raises(TeamNameTaken):
            teams.create(name="BLUE", taken=["Blue"])

    def test_that_is_closed_or_never_was_is_not_changed(self) -> None:
        for team, error in ((replace(BLUE, closed=True), TeamIsClosed), (Team(), TeamNotFound)):
            with pytest.raises(error):
                teams.rename(team, name="Red", taken=[])
            with pytest.raises(error):
                teams.change_members(team, joining=[BEN], leaving=[])
        with pytest.raises(TeamNotFound):
            teams.close(Team())

    def test_has_a_bounded_number_of_members(self) -> None:
        many = [UUID(int=number) for number in range(MOST_MEMBERS + 1)]
        with pytest.raises(BadInput):
            teams.change_members(Team(version=1), joining=many, leaving=[])
        with pytest.raises(BadInput):
            teams.change_members(BLUE, joining=[BEN], leaving=[BEN])


class TestSettings:
    def test_change_one_or_both(self) -> None:
        [changed] = change_settings(Settings(), time_zone="Europe/Berlin", currency=None)
        assert changed == WorkspaceSettingsChanged(time_zone="Europe/Berlin", currency="USD")
        present = settings_of([changed])
        assert present == Settings(time_zone="Europe/Berlin", currency="USD")
        assert change_settings(present, time_zone="Europe/Berlin", currency="USD") == []

    @pytest.mark.parametrize(
        ("time_zone", "currency"), [("Moon/Sea", None), (None, "eur"), (None, "XXX"), ("localtime", None)]
    )
    def test_refuse_what_is_no_zone_or_currency(self, time_zone: Any, currency: Any) -> None:
        with pytest.raises(BadInput):
            change_settings(Settings(), time_zone=time_zone, currency=currency)


@pytest.fixture
def ann(database: Database) -> Person:
    return someone(roles=("member", "admin"))


def mate(ann: Person, name: str = "ben", *roles: str) -> Person:
    return someone(f"{name}@example.org", workspace_id=ann.workspace_id, roles=("member", *roles))


def caller(person: Person) -> Caller:
    found = caller_in_workspace(person.id, person.workspace_id)
    assert found is not None
    return found


def members(team_id: UUID) -> set[UUID]:
    return set(TeamMember.objects.filter(team_id=team_id).values_list("user_id", flat=True))


@pytest.mark.flow
class TestCommands:
    def test_people_are_in_several_teams(self, ann: Person, database: Database) -> None:
        ben = mate(ann)
        blue = commands.create_team(caller=caller(ann), name="Blue", members=[ann.id, ben.id])
        red = commands.create_team(caller=caller(ann), name="Red", members=[ben.id])
        assert queries.team_names(ben.id, ann.workspace_id) == {"Blue", "Red"}
        commands.change_team(team_id=blue, caller=caller(ann), leaving=[ben.id], name="Azure")
        commands.change_team(team_id=red, caller=caller(ann), members=[ann.id])
        assert queries.team_names(ben.id, ann.workspace_id) == frozenset()
        assert queries.team_names(ann.id, ann.workspace_id) == {"Azure", "Red"}
        commands.close_team(team_id=red, caller=caller(ann))
        assert queries.team_names(ann.id, ann.workspace_id) == {"Azure"}
        commands.create_team(caller=caller(ann), name="red")
        with database.as_owner():
            assert rebuild.differences() == []

    def test_only_administrators_change_them(self, ann: Person) -> None:
        operator = mate(ann, "olga", "operator")
        team_id = commands.create_team(caller=caller(ann), name="Blue")
        for change in (
            lambda: commands.create_team(caller=caller(operator), name="Red"),
            lambda: commands.change_team(team_id=team_id, caller=caller(operator), name="Red"),
            lambda: commands.close_team(team_id=team_id, caller=caller(operator)),
            lambda: change_workspace_settings(caller=caller(operator), currency="EUR"),
        ):
            with pytest.raises(RoleMissing):
                change()

    def test_only_members_of_the_workspace_join(self, ann: Person) -> None:
        eve = someone("eve@example.org")
        with pytest.raises(MemberNotFound):
            commands.create_team(caller=caller(ann), name="Blue", members=[eve.id])
        team_id = commands.create_team(caller=caller(ann), name="Blue")
        for stranger in (eve.id, uuid4()):
            with pytest.raises(MemberNotFound):
                commands.change_team(team_id=team_id, caller=caller(ann), joining=[stranger])
        assert members(team_id) == set()

    def test_nobody_is_in_more_teams_than_budgets_bear(self, ann: Person) -> None:
        for number in range(MOST_TEAMS_OF_A_PERSON):
            commands.create_team(caller=caller(ann), name=f"Team {number}", members=[ann.id])
        with pytest.raises(BadInput, match="nobody is in more"):
            commands.create_team(caller=caller(ann), name="One more", members=[ann.id])

    def test_of_another_workspace_are_not_there(self, ann: Person) -> None:
        eve = someone("eve@example.org", roles=("member", "admin"))
        theirs = commands.create_team(caller=caller(eve), name="Blue", members=[eve.id])
        with pytest.raises(TeamNotFound):
            queries.team(theirs, ann.workspace_id)
        with pytest.raises(TeamNotFound):
            commands.close_team(team_id=theirs, caller=caller(ann))
        # Streams of other things are no teams either.
        with pytest.raises(TeamNotFound):
            commands.change_team(team_id=uuid4(), caller=caller(ann), name="Red")

    def test_meet_what_changed_meanwhile(self, ann: Person) -> None:
        team_id = commands.create_team(caller=caller(ann), name="Blue")
        with pytest.raises(StreamMoved):
            commands.change_team(team_id=team_id, caller=caller(ann), name="Red", expected_version=7)
        with pytest.raises(StreamMoved):
            change_workspace_settings(caller=caller(ann), currency="EUR", expected_version=7)

    @pytest.mark.parametrize("how", ["removed", "erased"])
    def test_let_go_who_leaves_the_workspace(self, how: str, ann: Person, database: Database) -> None:
        ben = mate(ann)
        team_id = commands.create_team(caller=caller(ann), name="Blue", members=[ann.id, ben.id])
        if how == "removed":
            remove_member(workspace_id=ann.workspace_id, user_id=ben.id, actor="system")
        else:
            erase_person(user_id=ben.id, actor="system")
        assert members(team_id) == {ann.id}
        assert load(team_id)[-1].event == TeamMembersChanged(left=(ben.id,))
        with database.as_owner():
            assert rebuild.differences() == []

    def test_at_once_leave_one_team_of_a_name_and_nobody_behind(self, ann: Person) -> None:
        ben = mate(ann)
        who = caller(ann)

        def attempt(number: int) -> bool:
            try:
                if number == 3:
                    remove_member(workspace_id=ann.workspace_id, user_id=ben.id, actor="system")
                else:
                    commands.create_team(caller=who, name="Blue", members=[ben.id])
            except (TeamNameTaken, MemberNotFound):
                return False
            finally:
                connection.close()
            return True

        with ThreadPoolExecutor(8) as pool:
            made = list(pool.map(attempt, range(8)))
        assert sum(made) in {1, 2}
        assert not TeamMember.objects.filter(user_id=ben.id).exists()

    def test_of_settings_are_kept_with_the_workspace(self, ann: Person, database: Database) -> None:
        change_workspace_settings(caller=caller(ann), time_zone="Asia/Tokyo", currency="JPY")
        change_workspace_settings(caller=caller(ann), time_zone="Asia/Tokyo")
        row = Workspace.objects.get(id=ann.workspace_id)
        assert (row.time_zone, row.currency, row.version) == ("Asia/Tokyo", "JPY", 2)
        with database.as_owner():
            assert rebuild.differences() == []


@pytest.mark.flow
class TestRest:
    def test_makes_changes_and_closes_teams(self, ann: Person) -> None:
        ben, client = mate(ann), ann.program()
        answer = send(client, "post", "teams", {"name": "Blue", "members": [str(ann.id)]})
        assert answer.status_code == 201, answer.json()
        made = answer.json()
        address = f"teams/{made['id']}"
        assert answer["Location"] == f"/api/v2/{address}"
        assert [each["name"] for each in made["members"]] == ["Ann"]
        etag = client.get(f"/api/v2/{address}")["ETag"]
        answer = send(client, "patch", address, {"name": "Azure"}, **{"If-Match": etag})
        assert answer.json()["name"] == "Azure"
        assert send(client, "patch", address, {"name": "Red"}, **{"If-Match": etag}).status_code == 412
        joined = send(client, "put", f"{address}/members/{ben.id}")
        assert {each["user_id"] for each in joined.json()["members"]} == {str(ann.id), str(ben.id)}
        assert client.get("/api/v2/me").json()["teams"] == ["Azure"]
        assert send(client, "delete", f"{address}/members/{ben.id}").status_code == 204
        assert send(client, "patch", address, {"members": [str(ben.id)]}).json()["version"] == 6
        assert client.get("/api/v2/teams").json()["items"][0]["id"] == made["id"]
        assert send(client, "delete", address).status_code == 204
        assert client.get("/api/v2/teams").json()["items"] == []
        assert client.get("/api/v2/teams?closed=true").json()["items"][0]["closed"] is True
        assert send(client, "patch", address, {"name": "Blue"}).status_code == 409

    @pytest.mark.parametrize(
        ("body", "status", "code"),
        [
            ({"name": ""}, 400, "invalid"),
            ({"name": "Blue", "members": ["x"]}, 400, "invalid"),
            ({"name": "Blue", "members": [str(uuid4())]}, 404, "member_not_found"),
            ({"name": "Taken"}, 409, "team_name_taken"),
        ],
    )
    def test_says_what_is_wrong(self, body: Any, status: int, code: str, ann: Person) -> None:
        commands.create_team(caller=caller(ann), name="taken")
        answer = send(ann.program(), "post", "teams", body)
        assert answer.status_code == status
        assert answer["Content-Type"] == "application/problem+json"
        if status != 400:
            assert answer.json()["code"] == code

    def test_is_for_those_who_look_after_the_workspace(self, ann: Person) -> None:
        member, auditor = mate(ann), mate(ann, "ada", "auditor")
        assert member.program().get("/api/v2/teams").status_code == 403
        assert auditor.program().get("/api/v2/teams").status_code == 200
        assert send(auditor.program(), "post", "teams", {"name": "Blue"}).status_code == 403

    def test_changes_settings(self, ann: Person) -> None:
        client = ann.program()
        present = client.get("/api/v2/workspace")
        assert (present.json()["time_zone"], present.json()["currency"]) == ("UTC", "USD")
        changed = send(
            client, "patch", "workspace", {"time_zone": "Europe/Berlin"}, **{"If-Match": present["ETag"]}
        )
        assert (changed.json()["time_zone"], changed.json()["currency"]) == ("Europe/Berlin", "USD")
        again = send(client, "patch", "workspace", {"currency": "EUR"}, **{"If-Match": present["ETag"]})
        assert again.status_code == 412
        assert send(client, "patch", "workspace", {"currency": "XXX"}).status_code == 400
        member = mate(ann)
        assert send(member.program(), "patch", "workspace", {"currency": "EUR"}).status_code == 403


def send(client: Client, method: str, path: str, body: Any = None, **headers: str) -> Any:
    return client.generic(
        method.upper(),
        f"/api/v2/{path}",
        "" if body is None else json.dumps(body),
        content_type="application/json",
        headers=headers,
    )


@pytest.mark.flow
class TestTerminal:
    def run(self, command: str, *arguments: str) -> str:
        out = StringIO()
        call_command(command, "--user", "ann@example.org", *arguments, stdout=out)
        return out.getvalue()

    def test_keeps_teams(self, ann: Person) -> None:
        mate(ann)
        assert self.run("teams", "create", "Blue", "ann@example.org").endswith("Blue: ann@example.org\n")
        self.run("teams", "add", "blue", "ben@example.org")
        assert "Blue: ann@example.org, ben@example.org" in self.run("teams", "list")
        self.run("teams", "remove", "Blue", "ann@example.org")
        assert "Azure: ben@example.org" in self.run("teams", "rename", "Blue", "Azure")
        assert "Azure: closed" in self.run("teams", "close", "Azure")
        assert self.run("teams", "list") == ""
        assert "Azure: closed" in self.run("teams", "list", "--closed")

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("add", "Green", "ann@example.org"), "no team 'Green'; there are Blue"),
            (("add", "Blue", "eve@example.org"), "Nobody in the workspace has this address"),
            (("create", "BLUE"), "There is a team 'BLUE' already"),
            ((), "Say list"),
        ],
    )
    def test_says_what_is_wrong(self, arguments: tuple[str, ...], said: str, ann: Person) -> None:
        commands.create_team(caller=caller(ann), name="Blue")
        with pytest.raises(CommandError, match=said):
            self.run("teams", *arguments)

    def test_keeps_settings(self, ann: Person) -> None:
        said = self.run("workspace", "set", "--time-zone", "Europe/Berlin", "--currency", "EUR")
        assert said == "Team: time zone Europe/Berlin, currency EUR\n"
        assert self.run("workspace", "show") == said
        with pytest.raises(CommandError, match="no time zone"):
            self.run("workspace", "set", "--time-zone", "Moon/Sea")
