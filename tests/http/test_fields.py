"""Fields of request bodies."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.http import QueryDict
from django.test import Client
from django.urls import get_resolver
from rest_framework import serializers
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


class Body(serializers.Serializer[Any]):
    number = serializers.IntegerField(required=False, allow_null=True)
    share = serializers.FloatField(required=False)
    switch = serializers.BooleanField(required=False)
    id = serializers.UUIDField(required=False)
    ids = serializers.ListField(child=serializers.UUIDField(), required=False)
    name = serializers.CharField(required=False)
    address = serializers.EmailField(required=False)


# What DRF's own fields turn into what they need.
OTHERS: dict[str, tuple[Any, ...]] = {
    "number": ("5", "", True, "5.0"),
    "share": ("1.5", False),
    "switch": ("yes", "true", "", 1, 0, "null"),
    "id": (5, "urn:uuid:01936f3e-0000-7000-8000-0000000000aa", "01936f3e00007000800000000000aabb", True),
    "ids": ([7], ["01936f3e00007000800000000000aabb"]),
    "name": (5, 1.5),
    "address": (5,),
}
FITTING: dict[str, tuple[Any, ...]] = {
    "number": (5, 5.0, None),
    "share": (1.5, 2),
    "switch": (True, False),
    "id": ("01936f3e-0000-7000-8000-0000000000aa", "01936F3E-0000-7000-8000-0000000000AA"),
    "ids": ([], ["01936f3e-0000-7000-8000-0000000000aa"]),
    "name": ("5",),
    "address": ("ann@example.org",),
}


class TestJsonBodies:
    @pytest.mark.parametrize(("name", "value"), [(name, one) for name in OTHERS for one in OTHERS[name]])
    def test_hold_nothing_of_another_type(self, name: str, value: Any) -> None:
        body = Body(data={name: value})
        assert not body.is_valid()
        assert set(body.errors) == {name}

    @pytest.mark.parametrize(("name", "value"), [(name, one) for name in FITTING for one in FITTING[name]])
    def test_hold_what_the_schema_says(self, name: str, value: Any) -> None:
        assert Body(data={name: value}).is_valid(raise_exception=True)

    def test_are_no_forms(self) -> None:
        form = Body(data=QueryDict("number=5&share=1.5&switch=yes&id=01936f3e00007000800000000000aabb"))
        assert form.is_valid(raise_exception=True)
        assert (form.validated_data["number"], form.validated_data["switch"]) == (5, True)

    def test_of_every_route_are_taken_as_they_are(self) -> None:
        get_resolver().url_patterns  # noqa: B018 - imports every serializer
        found = 0
        for serializer in _below(serializers.Serializer):
            for name, field in serializer().fields.items():
                match field:
                    case _ if field.read_only:
                        continue
                    case serializers.BooleanField():
                        wrong: Any = "yes"
                    case serializers.IntegerField() | serializers.FloatField():
                        wrong = "5"
                    case serializers.UUIDField() | serializers.CharField():
                        wrong = 5
                    case _:
                        continue
                found += 1
                body = serializer(data={name: wrong})
                assert not body.is_valid()
                assert body.errors[name][0].code == "invalid", (serializer, name)
        assert found > 100


def _below(kind: type[Any]) -> Iterator[type[serializers.Serializer[Any]]]:
    for each in kind.__subclasses__():
        if each.__module__.partition(".")[0] in {"cartrita", "governance", "retrieval", "sessions_app"}:
            yield each
        yield from _below(each)


@pytest.mark.flow
class TestBodies:
    def test_name_the_field_of_another_type(self, database: Database) -> None:
        client = someone(roles=("member", "admin")).program()
        for path, body, field in (
            ("/api/v2/search", {"query": "tea", "k": "5"}, "k"),
            ("/api/v2/search", {"query": "tea", "document_ids": [5]}, "document_ids[0]"),
            ("/api/v2/policies/import", {"text": "rules: []", "activate": "yes"}, "activate"),
        ):
            answer = client.post(path, body, content_type="application/json")
            assert (answer.status_code, answer.json()["field"]) == (400, field)


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
