from datetime import UTC, datetime, timedelta, timezone
from hashlib import sha256
from typing import Any
from uuid import UUID

import psycopg
import pytest
import rfc8785

from cartrita.eventstore.canonical import rfc3339
from cartrita.eventstore.leaf import LEAF_V1_SQL, leaf_v1
from tests.databases import Database

FIELDS: dict[str, Any] = {
    "event_id": UUID(int=1),
    "stream_id": UUID(int=2),
    "version": 3,
    "type_name": "tests.Thing",
    "schema_version": 1,
    "recorded_at": datetime(2026, 1, 31, 9, 0, 0, 120, tzinfo=UTC),
    "workspace_id": UUID(int=4),
    "session_id": None,
    "causation_id": UUID(int=5),
    "actor": 'user:"ü"',
    "trace_id": "",
    "key_id": None,
    "data": b'{"a":1}',
}


ENDS_OF_TIME = [datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, 23, 59, 59, 999999, tzinfo=UTC)]


class TestLeafV1:
    def test_is_the_hash_of_the_canonical_array(self) -> None:
        nil = "00000000-0000-0000-0000-00000000000"
        array: list[Any] = [
            "cartrita.leaf.v1", nil + "1", nil + "2", 3, "tests.Thing", 1, "2026-01-31T09:00:00.000120Z",
            nil + "4", None, nil + "5", 'user:"ü"', "", None, {"a": 1},
        ]  # fmt: skip
        assert leaf_v1(**FIELDS) == sha256(b"\x00" + rfc8785.dumps(array)).digest()

    def test_stays_what_it_was(self) -> None:
        """Stored proofs rest on this value: a change needs a leaf v2."""
        assert leaf_v1(**FIELDS).hex() == "28e8bc88eeea1c0b04c7437aff76da0b463335c28c2a0681e4b92c9cbd9f8727"

    def test_is_the_same_in_every_time_zone(self) -> None:
        moved = FIELDS["recorded_at"].astimezone(timezone(timedelta(hours=5, minutes=30)))
        assert leaf_v1(**{**FIELDS, "recorded_at": moved}) == leaf_v1(**FIELDS)

    @pytest.mark.parametrize("name", list(FIELDS))
    def test_covers_each_field(self, name: str) -> None:
        other = {
            UUID: UUID(int=9), int: 9, str: "other", bytes: b'{"a":2}', type(None): UUID(int=9),
            datetime: datetime(2026, 1, 31, 9, 0, 0, 121, tzinfo=UTC),
        }[type(FIELDS[name])]  # fmt: skip
        assert leaf_v1(**{**FIELDS, name: other}) != leaf_v1(**FIELDS)


# Each part of JSON's texts that is written in a way of its own, and what only looks like it.
ODD_TEXTS = [
    "".join(map(chr, range(1, 0x80))), "\\u0000 \\", '"', "\u0080\u00ad\u2028\u2029\ufeff\uffff",
    "\U0001f600é", "</script>",
]  # fmt: skip


class TestLeafV1Sql:
    @pytest.mark.parametrize("text", ODD_TEXTS)
    @pytest.mark.parametrize("recorded_at", [FIELDS["recorded_at"], *ENDS_OF_TIME])
    def test_is_the_same(self, database: Database, text: str, recorded_at: datetime) -> None:
        fields = {**FIELDS, "type_name": text, "actor": text, "trace_id": text, "recorded_at": recorded_at}
        for absent in (None, UUID(int=2**128 - 1)):
            fields.update(dict.fromkeys(("session_id", "causation_id", "key_id"), absent))
            assert leaf_in_sql(database, fields) == leaf_v1(**fields)


def leaf_in_sql(database: Database, fields: dict[str, Any]) -> bytes:
    row = {("type" if name == "type_name" else name): value for name, value in fields.items()}
    with psycopg.connect(database.url) as session:
        names, places = ", ".join(row), ", ".join(f"%({name})s" for name in row)
        session.execute(f"insert into event ({names}) values ({places})", row)
        found = session.execute(f"select {LEAF_V1_SQL} from event").fetchone()
        session.rollback()
    assert found is not None
    return bytes(found[0])


class TestRfc3339:
    def test_refuses_a_time_without_zone(self) -> None:
        with pytest.raises(ValueError, match="has no zone"):
            rfc3339(datetime(2026, 1, 1))  # noqa: DTZ001
