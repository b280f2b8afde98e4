"""Who asks, the workspace and its members over REST."""

from uuid import uuid4

import pytest

from cartrita.accounts.models import User
from cartrita.accounts.queries import roles_of
from tests.accounts.people import Person, someone
from tests.databases import Database

pytestmark = pytest.mark.flow

JSON = "application/json"
MEMBERS = "/api/v2/members"


@pytest.fixture
def root(database: Database) -> Person:
    return someone("root@example.org", roles=("member", "admin"))


@pytest.fixture
def ann(root: Person) -> Person:
    return someone("ann@example.org", workspace_id=root.workspace_id)


class TestMe:
    def test_says_who_asks_where_and_with_what(self, ann: Person) -> None:
        found = ann.program("read").get("/api/v2/me").json()
        assert (found["user_id"], found["name"], found["email"]) == (str(ann.id), "Ann", "ann@example.org")
        assert (found["roles"], found["scopes"]) == (["member"], ["read"])
        assert found["workspace"]["id"] == str(ann.workspace_id)
        assert found["workspace"] == ann.program("read").get("/api/v2/workspace").json()
        assert found["token_id"] is not None


class TestMembers:
    def test_are_for_administrators(self, ann: Person) -> None:
        program = ann.program()
        for answer in (
            program.get(MEMBERS),
            program.post(MEMBERS, {"email": "x@example.org", "roles": ["admin"]}, content_type=JSON),
            program.get(f"{MEMBERS}/{ann.id}"),
            program.patch(f"{MEMBERS}/{ann.id}", {"roles": ["admin"]}, content_type=JSON),
            program.delete(f"{MEMBERS}/{ann.id}"),
        ):
            assert (answer.status_code, answer.json()["code"]) == (403, "role_missing")
        assert roles_of(ann.id, ann.workspace_id) == {"member"}

    def test_come_in_pages(self, root: Person, ann: Person) -> None:
        program = root.program()
        first = program.get(f"{MEMBERS}?limit=1").json()
        rest = program.get(f"{MEMBERS}?cursor={first['next_cursor']}").json()
        assert [one["email"] for one in first["items"] + rest["items"]] == [
            "root@example.org",
            "ann@example.org",
        ]
        assert rest["next_cursor"] is None

    def test_join_change_and_leave(self, root: Person) -> None:
        program = root.program()
        body = {"email": "Bob@example.org", "name": "Bob", "roles": ["member", "reviewer"]}
        made = program.post(MEMBERS, body, content_type=JSON)
        bob = User.objects.get(email="bob@example.org")
        assert (made.status_code, made.headers["Location"]) == (201, f"{MEMBERS}/{bob.pk}")
        assert (made.json()["roles"], made.json()["name"]) == (["member", "reviewer"], "Bob")
        again = program.post(MEMBERS, body, content_type=JSON)
        assert (again.status_code, again.json()["code"]) == (409, "already_member")
        place = made.headers["Location"]
        seen = program.get(place).headers["ETag"]
        changed = program.patch(place, {"roles": ["auditor"]}, content_type=JSON, headers={"If-Match": seen})
        assert changed.json()["roles"] == ["auditor"]
        assert roles_of(bob.pk, root.workspace_id) == {"auditor"}
        stale = {"If-Match": seen}
        answer = program.patch(place, {"roles": ["admin"]}, content_type=JSON, headers=stale)
        assert (answer.status_code, answer.json()["code"]) == (412, "precondition_failed")
        assert program.delete(place, headers=stale).status_code == 412
        assert program.delete(place).status_code == 204
        assert program.get(place).json()["code"] == "member_not_found"
        assert roles_of(bob.pk, root.workspace_id) == frozenset()

    def test_of_another_workspace_do_not_exist(self, root: Person, ann: Person) -> None:
        other = someone("other@example.org", roles=("admin",)).program()
        place = f"{MEMBERS}/{ann.id}"
        answers = (
            other.get(place),
            other.patch(place, {"roles": ["admin"]}, content_type=JSON),
            other.delete(place),
            other.get(f"{MEMBERS}/{uuid4()}"),
        )
        assert {(answer.status_code, answer.json()["code"]) for answer in answers} == {
            (404, "member_not_found")
        }
        assert roles_of(ann.id, ann.workspace_id) == {"member"}
        assert "ann@" not in other.get(MEMBERS).text

    def test_keep_one_administrator(self, root: Person) -> None:
        program, place = root.program(), f"{MEMBERS}/{root.id}"
        assert program.delete(place).json()["code"] == "last_admin"
        answer = program.patch(place, {"roles": ["member"]}, content_type=JSON)
        assert (answer.status_code, answer.json()["code"]) == (409, "last_admin")

    @pytest.mark.parametrize(
        "wrong", [{"email": "nobody"}, {"roles": []}, {"roles": ["king"]}, {"email": "a\0@b.org"}]
    )
    def test_need_an_address_and_roles(self, root: Person, wrong: dict[str, object]) -> None:
        body = {"email": "bob@example.org", "roles": ["member"], **wrong}
        assert root.program().post(MEMBERS, body, content_type=JSON).status_code == 400
        assert not User.objects.filter(email__startswith="bob").exists()


class TestTokens:
    def test_come_in_pages(self, ann: Person) -> None:
        program = ann.program()
        for _ in range(2):
            ann.token("read")
        first = program.get("/api/v2/tokens?limit=2").json()
        rest = program.get(f"/api/v2/tokens?limit=2&cursor={first['next_cursor']}").json()
        assert (len(first["items"]), len(rest["items"]), rest["next_cursor"]) == (2, 1, None)
