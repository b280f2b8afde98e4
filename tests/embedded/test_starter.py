"""The starter content."""

from django.contrib.auth.hashers import is_password_usable
from django.test import Client

from cartrita.accounts.commands import remove_member
from cartrita.accounts.models import SignInLink, User
from cartrita.accounts.queries import roles_of
from cartrita.embedded import starter
from retrieval.models import Document
from tests.databases import Database


class TestProvide:
    def test_makes_two_people_and_the_sample_documents_once(self, database: Database) -> None:
        starter.provide()
        starter.provide()
        roles = {user.email: roles_of(user.id, starter.WORKSPACE_ID) for user in User.objects.all()}
        assert roles == {
            "admin@cartrita.localhost": {"member", "admin"},
            "reviewer@cartrita.localhost": {"member", "reviewer"},
        }
        assert not any(is_password_usable(user.password) for user in User.objects.all())
        assert Document.objects.count() == len(list(starter.DOCUMENTS.glob("*.md"))) > 0

    def test_does_not_bring_back_what_was_taken_away(self, database: Database) -> None:
        starter.provide()
        reviewer = User.objects.get(email="reviewer@cartrita.localhost")
        remove_member(workspace_id=starter.WORKSPACE_ID, user_id=reviewer.id, actor="system")
        User.objects.filter(id=reviewer.id).update(is_active=False)
        starter.provide()
        assert not roles_of(reviewer.id, starter.WORKSPACE_ID)
        assert [who for who, _ in starter.sign_in_links()] == ["administrator"]


class TestSignInLinks:
    def test_open_the_door_once(self, database: Database, client: Client) -> None:
        starter.provide()
        (_, address), _ = starter.sign_in_links()
        path = address.removeprefix("http://testserver")
        assert client.get(path).status_code in {200, 302}
        client.post(path)
        assert SignInLink.objects.count() == 1
        assert "_auth_user_id" in client.session
