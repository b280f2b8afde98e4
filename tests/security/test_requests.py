"""Requests that say more than they may."""

import json
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.conf import settings
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from retrieval.models import Document
from sessions_app.models import ChatSession, Message
from tests.accounts.people import Person, someone
from tests.databases import Database

JSON = "application/json"


class TestBody:
    def test_assigns_nothing_that_it_does_not_say(self, ann: Person, bob: Person) -> None:
        more: dict[str, Any] = {
            "id": str(uuid4()),
            "workspace_id": str(bob.workspace_id),
            "workspaceId": str(bob.workspace_id),
            "user_id": str(bob.id),
            "actor": "system",
            "roles": ["admin"],
            "kind": "chat",
            "status": "expired",
            "created_at": "2001-01-01T00:00:00Z",
        }
        program = ann.program()
        answer = program.post("/api/v2/sessions", more, content_type=JSON)
        assert answer.status_code == 201
        row = ChatSession.objects.get()
        assert str(row.id) == answer.json()["sessionId"] != more["id"]
        assert (row.workspace_id, row.user_id) == (ann.workspace_id, ann.id)
        assert (row.kind, row.status) == ("api", "active")
        assert row.created_at.year > 2001
        message = {"content": "Hello", "author": "system", "plan_id": str(uuid4()), **more}
        assert (
            program.post(f"/api/v2/sessions/{row.id}/messages", message, content_type=JSON).status_code == 202
        )
        said = Message.objects.get()
        assert said.author.startswith("token:")
        assert (said.role, said.plan_id) == ("user", None)

    def test_speaks_for_nobody_else(self, ann: Person, bob: Person) -> None:
        answer = ann.program().post("/api/v2/sessions", {"userId": str(bob.id)}, content_type=JSON)
        assert answer.status_code == 403
        assert not ChatSession.objects.exists()


class TestNames:
    @pytest.mark.parametrize(
        "name", ["../../../etc/passwd.txt", "/etc/passwd.txt", "..\\..\\boot.txt", "a/../../b.txt"]
    )
    def test_of_files_are_no_paths(self, name: str, ann: Person) -> None:
        home = Path(settings.HOME)
        before = set(home.rglob("*"))
        upload = SimpleUploadedFile("x.txt", b"The ferry leaves at 7:45.", content_type="text/plain")
        upload.__dict__["_name"] = name
        answer = ann.program().post("/api/v2/documents", {"file": upload, "title": name})
        assert answer.status_code == 202, answer.text
        document_id = UUID(answer.json()["id"])
        # The name is a title, kept as it is; the bytes are a row under their hash.
        shown = ann.program().get(f"/api/v2/documents/{document_id}").json()
        assert shown["title"] == name
        assert Document.objects.filter(id=document_id).exists()
        assert set(home.rglob("*")) == before

    @pytest.mark.parametrize(
        "path",
        [
            "/static/../cartrita/settings.py",
            "/static/..%2f..%2fcartrita/settings.py",
            "/static/%2e%2e/%2e%2e/pyproject.toml",
            "/static/cartrita/../../../manage.py",
            "/static//etc/passwd",
        ],
    )
    @pytest.mark.usefixtures("static_files_as_served")
    def test_of_static_files_lead_nowhere_else(self, path: str, database: Database) -> None:
        answer = Client().get(path)
        assert answer.status_code == 404
        assert b"import" not in answer.content
        assert b"root:" not in answer.content


class TestDocument:
    @pytest.mark.parametrize(
        ("content", "claimed"),
        [
            (b"<html><script>alert(1)</script>", "text/plain"),
            (b"\x89PNG\r\n\x1a\n" + b"\0" * 64, "text/plain"),
            (b"PK\x03\x04" + b"\0" * 64, "application/pdf"),
            (b"MZ\x90\x00" + b"\0" * 64, "text/markdown"),
        ],
    )
    def test_is_what_its_bytes_are(self, content: bytes, claimed: str, ann: Person) -> None:
        upload = SimpleUploadedFile("notes.txt", content, content_type=claimed)
        answer = ann.program().post("/api/v2/documents", {"file": upload})
        assert answer.status_code == 415
        assert json.loads(answer.content)["code"] in {"media_type_mismatch", "media_type_unsupported"}
        assert not Document.objects.exists()


class TestAnotherWorkspace:
    def test_is_closed_to_who_administers_elsewhere(self, ann: Person) -> None:
        carl = someone("carl@example.org", roles=("member", "reviewer", "operator", "admin", "auditor"))
        session_id = ann.program().post("/api/v2/sessions", {}, content_type=JSON).json()["sessionId"]
        for part in ("", "/messages", "/events", "/plans", "/status"):
            answer = carl.program().get(f"/api/v2/sessions/{session_id}{part}")
            assert answer.status_code == 404, part
        assert carl.program().delete(f"/api/v2/sessions/{session_id}").status_code == 404
        assert ann.program().get(f"/api/v2/sessions/{session_id}").status_code == 200
