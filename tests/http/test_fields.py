"""Fields of request bodies."""

from typing import Any

import pytest
from django.test import Client
from rest_framework.exceptions import ValidationError

from cartrita.http.fields import Text
from tests.accounts.people import someone
from tests.databases import Database


class TestText:
    @pytest.mark.parametrize("value", [0, 1.5, True, ["a"], {"a": 1}])
    def test_is_made_of_nothing_else(self, value: Any) -> None:
        with pytest.raises(ValidationError):
            Text().run_validation(value)

    def test_is_what_was_sent(self) -> None:
        assert Text(trim_whitespace=False).run_validation(" a ") == " a "


@pytest.mark.flow
class TestPolicies:
    @pytest.fixture
    def client(self, database: Database) -> Client:
        return someone(roles=("member", "admin")).program()

    def test_are_no_numbers(self, client: Client) -> None:
        answer = client.post("/api/v2/policies/validate", {"text": 0}, content_type="application/json")
        assert (answer.status_code, answer.json()["field"]) == (400, "text")

    def test_are_named_whole_or_not_at_all(self, client: Client) -> None:
        assert client.get("/api/v2/policies/export").status_code == 200
        assert client.get("/api/v2/policies/export?policy_hash=").status_code == 404
        assert client.get("/api/v2/policies/hits?since=").json()["field"] == "since"
