"""Health for load balancers and people."""

import tomllib
from pathlib import Path

import pytest
from django.test import Client

from cartrita import __version__
from tests.databases import point_django_at


class TestVersion:
    def test_is_the_one_of_the_package(self) -> None:
        project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
        assert project["project"]["version"] == __version__


class TestHealthz:
    def test_needs_no_other_part(self) -> None:
        response = Client().get("/healthz")
        assert (response.status_code, response.json()) == (200, {"status": "alive"})


@pytest.mark.flow
@pytest.mark.usefixtures("database")
class TestHealth:
    def test_tells_status_version_parts_and_sessions(self) -> None:
        answer = Client().get("/health")
        body = answer.json()
        assert answer.status_code == 200
        assert set(body) == {"status", "version", "components", "sessions"}
        assert (body["status"], body["version"], body["sessions"]) == ("ok", __version__, 0)
        assert body["components"]["database"]["status"] == "ok"
        assert "no-cache" in answer.headers["Cache-Control"]
        assert Client().get("/readyz").json() == {"status": "ready"}

    def test_tells_when_the_database_is_gone(self) -> None:
        former = point_django_at("postgresql://nobody@/none?host=/nonexistent")
        try:
            from django.db import connection

            connection.close()
            answer, ready = Client().get("/health"), Client().get("/readyz")
        finally:
            point_django_at(former)
        assert (answer.status_code, answer.json()["status"]) == (503, "degraded")
        assert answer.json()["components"]["database"]["status"] == "failed"
        assert "nonexistent" not in answer.text
        assert (ready.status_code, ready.json()["failed"]) == (503, ["database", "models"])
