"""The OpenAPI schema and Swagger UI."""

import re
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
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

    def test_names_sums_up_and_bounds_every_operation(self, schema: Any) -> None:
        names = []
        for path, operations in schema["paths"].items():
            for method, operation in operations.items():
                where = f"{method} {path}"
                names.append(operation["operationId"])
                assert operation["summary"], where
                assert operation["summary"][0].isupper(), where
                assert {"401", "403", "404", "429", "503"} <= set(operation["responses"]), where
                assert "Retry-After" in operation["responses"]["429"]["headers"], where
                parameters = {parameter["name"] for parameter in operation.get("parameters", ())}
                assert ("If-Match" in parameters) is ("412" in operation["responses"]), where
                assert ("If-None-Match" in parameters) is ("304" in operation["responses"]), where
        assert len(names) == len(set(names))

    def test_gives_every_list_in_pages(self, schema: Any) -> None:
        components = schema["components"]["schemas"]
        lists = 0
        for path, operations in schema["paths"].items():
            content = operations.get("get", {}).get("responses", {}).get("200", {}).get("content", {})
            name = content.get("application/json", {}).get("schema", {}).get("$ref", "").rpartition("/")[2]
            if "items" in components.get(name, {}).get("properties", {}):
                lists += 1
                assert "next_cursor" in components[name]["properties"], path
                parameters = {parameter["name"] for parameter in operations["get"]["parameters"]}
                assert {"cursor", "limit"} <= parameters, path
        assert lists > 15

    def test_comes_from_the_command_without_a_warning(self, tmp_path: Path) -> None:
        out = tmp_path / "schema.yml"
        call_command("spectacular", "--fail-on-warn", "--validate", "--file", str(out))
        assert "openapi: 3" in out.read_text()

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
