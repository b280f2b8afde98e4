"""The console's page on events, with what this version cannot read."""

import asyncio

import psycopg
import pytest
from django.test import Client

from cartrita.eventstore import new_id
from cartrita.eventstore.sequencer import Sequencer
from tests.accounts.people import Person
from tests.databases import Database

pytestmark = pytest.mark.flow


class TestEventBrowser:
    @pytest.mark.parametrize(
        ("type_name", "stored", "shown"),
        [
            ("sessions_app.FromTomorrow", b'{"said":1}', "&quot;said&quot;: 1"),
            ("sessions_app.FromTomorrow", b"not json", "not json"),
            ("sessions_app.FromTomorrow", b"\xff\x00", "\\u0000"),
        ],
    )
    def test_shows_what_cannot_be_read(
        self, ann: Person, database: Database, type_name: str, stored: bytes, shown: str
    ) -> None:
        ann.user.is_staff = ann.user.is_superuser = True
        ann.user.save()
        client = Client()
        client.force_login(ann.user)
        stream = new_id()
        with psycopg.connect(database.url, autocommit=True) as other:
            other.execute(
                "insert into event (stream_id, version, event_id, type, schema_version, recorded_at, "
                "workspace_id, actor, trace_id, data) values (%s, 1, gen_random_uuid(), %s, 9, now(), %s, "
                "'system', '', %s)",
                [stream, type_name, ann.workspace_id, stored],
            )
        asyncio.run(Sequencer().order())
        page = client.get("/admin/eventstore/orderedevent/")
        assert page.status_code == 200
        assert type_name in page.text
        assert "accounts.WorkspaceCreated" in page.text
        with psycopg.connect(database.url) as other:
            row = other.execute("select position from log where stream_id = %s", [stream]).fetchone()
        assert row is not None
        detail = client.get(f"/admin/eventstore/orderedevent/{row[0]}/change/")
        assert detail.status_code == 200
        assert shown in detail.text
