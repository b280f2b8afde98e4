"""The OpenAPI schema and Swagger UI."""

import re
from typing import Any

import pytest
from django.test import Client
from drf_spectacular.drainage import GENERATOR_STATS
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.validation import validate_schema


@pytest.fixture(scope="module")
def schema() -> Any:
    """The schema of all routes; a warning of drf-spectacular fails every test here."""
    GENERATOR_STATS.reset()
    generated = SchemaGenerator().get_schema(request=None, public=True)  # type: ignore[no-untyped-call]
    assert not GENERATOR_STATS, (GENERATOR_STATS._warn_cache, GENERATOR_STATS._error_cache)
    return generated


class TestSchema:
    def test_is_valid_openapi(self, schema: Any) -> None:
        validate_schema(schema)  # type: ignore[no-untyped-call]

    def test_tells_of_problems_and_keys_on_every_post(self, schema: Any) -> None:
        posts = [operations["post"] for operations in schema["paths"].values() if "post" in operations]
        assert posts
        for post in posts:
            assert "Idempotency-Key" in {parameter["name"] for parameter in post["parameters"]}
            assert {"400", "409", "413", "422"} <= set(post["responses"])

    def test_holds_the_documented_routes(self, schema: Any) -> None:
        session = "/api/v2/sessions/{session_id}"
        for path, method in (
            ("/api/v2/sessions", "post"),
            (f"{session}/messages", "post"),
            (f"{session}/status", "get"),
        ):
            assert method in schema["paths"][path]
        opened = schema["components"]["schemas"]["OpenedSession"]["properties"]
        assert set(opened) == {"sessionId", "websocketUrl", "expiresAt"}

    def test_knows_both_ways_of_saying_who_asks(self, schema: Any) -> None:
        assert set(schema["components"]["securitySchemes"]) == {"token", "browser"}


class TestSwaggerUi:
    def test_works_under_the_content_security_policy(self) -> None:
        page = Client().get("/api/docs")
        assert page.status_code == 200
        assert "script-src 'self'" in page.headers["Content-Security-Policy"]
        assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*src=)", page.text)
        scripts = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert scripts
        assert all(address.startswith("/") for address in scripts)
        script = Client().get(scripts[-1].replace("&amp;", "&"))
        assert script.status_code == 200
        assert script.headers["Content-Type"].startswith("application/javascript")
        assert "/api/schema" in script.text

    def test_reads_the_schema_without_signing_in(self) -> None:
        assert Client().get("/api/schema", headers={"Accept": "application/json"}).status_code == 200
