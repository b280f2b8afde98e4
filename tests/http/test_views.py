"""What every REST view does: keys, doors, failures of what it stands on."""

import logging
import re
from typing import Any
from uuid import uuid4

import pytest
from django.test import Client
from django.urls import get_resolver
from django.urls.resolvers import URLPattern, URLResolver
from rest_framework.views import APIView

from cartrita.http.views import ApiView
from tests.accounts.people import someone
from tests.databases import Database, point_django_at

JSON = "application/json"


def rest_views() -> dict[str, type[APIView]]:
    """Return the view of each address below /api/v2."""

    def walk(patterns: Any, prefix: str = "") -> Any:
        for pattern in patterns:
            address = prefix + str(pattern.pattern)
            if isinstance(pattern, URLResolver):
                yield from walk(pattern.url_patterns, address)
            elif isinstance(pattern, URLPattern) and address.startswith("api/v2/"):
                yield address, getattr(pattern.callback, "cls")  # noqa: B009 # as_view of a class

    return dict(walk(get_resolver().url_patterns))


class TestEveryView:
    def test_counts_has_tags_and_takes_keys(self) -> None:
        views = rest_views()
        assert len(views) > 50
        assert [address for address, view in views.items() if not issubclass(view, ApiView)] == []

    def test_needs_somebody_who_is_known(self, database: Database) -> None:
        for address, view in rest_views().items():
            path = re.sub(r"<(uuid|str|int):", "<", f"/{address}")
            path = re.sub(r"<\w+_id>", lambda _: str(uuid4()), path)
            path = path.replace("<name>", "x").replace("<version>", "1").replace("<position>", "1")
            assert "<" not in path, path
            for method in ("get", "post", "put", "patch", "delete"):
                if hasattr(view, method):
                    answer = getattr(Client(), method)(path)
                    assert (answer.status_code, answer.json()["code"]) == (401, "not_signed_in"), path

    def test_answers_post_once_for_a_key_also_of_forms_with_files(self, database: Database) -> None:
        from django.core.files.uploadedfile import SimpleUploadedFile

        program = someone().program()

        def send(content: bytes) -> Any:
            file = SimpleUploadedFile("a.md", content, content_type="text/markdown")
            return program.post("/api/v2/documents", {"file": file}, headers={"Idempotency-Key": "k"})

        first, again = send(b"One."), send(b"One.")
        assert first.status_code == again.status_code == 202
        assert again.json() == first.json()
        assert again.headers["Idempotency-Replayed"] == "true"
        assert (send(b"Two.").status_code, send(b"Two.").json()["code"]) == (422, "idempotency_key_reused")


class TestFailures:
    def test_of_the_database_ask_to_come_back(self, database: Database) -> None:
        program = someone().program()
        former = point_django_at("postgresql://nobody@/none?host=/nonexistent")
        try:
            from django.db import connection

            connection.close()
            answers = [program.get("/api/v2/sessions"), program.post("/api/v2/search", {}, content_type=JSON)]
        finally:
            point_django_at(former)
        for answer in answers:
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
            assert int(answer.headers["Retry-After"]) > 0
            assert answer.headers["Content-Type"] == "application/problem+json"
            assert "nonexistent" not in answer.text

    @pytest.mark.parametrize("path", ["/api/v2/sessions", "/chat/", "/api/schema"])
    def test_of_a_wrong_host_are_400_without_a_traceback(
        self, path: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.INFO):
            answer = Client().get(path, headers={"Host": "evil.example"})
        assert answer.status_code == 400
        assert "Traceback" not in answer.text
        said = [record for record in caplog.records if record.name.startswith("django.")]
        assert said
        assert not [record for record in said if record.exc_info]
