"""manage.py create_token on a real database."""

from datetime import timedelta
from uuid import uuid4

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from cartrita.accounts.models import ApiToken, User
from cartrita.eventstore import load
from tests.accounts.people import Person, someone

pytestmark = pytest.mark.flow


@pytest.fixture
def ann(database: object) -> Person:
    return someone()


class TestCreateToken:
    def test_prints_the_secret_alone_and_once(self, ann: Person, capsys: pytest.CaptureFixture[str]) -> None:
        call_command("create_token", "Ann@example.org", name="build", days=7)
        said = capsys.readouterr()
        secret = said.out.removesuffix("\n")
        assert secret.startswith("crt_")
        assert secret.split() == [secret]
        assert secret not in said.err
        told = Client(headers={"Authorization": f"Bearer {secret}"}).get("/api/v2/me").json()
        assert (told["user_id"], told["scopes"]) == (str(ann.id), ["read", "write"])
        row = ApiToken.objects.get()
        assert timezone.now() + timedelta(days=6) < row.expires_at < timezone.now() + timedelta(days=8)
        [issued] = load(row.id)
        assert issued.actor == "system"

    @pytest.mark.parametrize(
        ("more", "said"),
        [
            ({"scopes": "read,everything"}, "scopes of read, write"),
            ({"scopes": "import"}, "import"),
            ({"scopes": ""}, "scope"),
            ({"name": " "}, "name"),
            ({"days": 0}, "1 to 366"),
            ({"days": 10**9}, "1 to 366"),
            ({"workspace": uuid4()}, "does not belong to the workspace"),
        ],
    )
    def test_refuses_what_a_person_could_not_have(
        self, ann: Person, more: dict[str, object], said: str
    ) -> None:
        with pytest.raises(CommandError, match=said):
            call_command("create_token", "ann@example.org", **{"name": "build", **more})
        assert not ApiToken.objects.exists()

    def test_is_for_people_who_may_sign_in(self, ann: Person) -> None:
        with pytest.raises(CommandError, match="Nobody has the address"):
            call_command("create_token", "bob@example.org", name="build")
        User.objects.filter(id=ann.id).update(is_active=False)
        with pytest.raises(CommandError, match="may not sign in"):
            call_command("create_token", "ann@example.org", name="build")
        assert not ApiToken.objects.exists()
