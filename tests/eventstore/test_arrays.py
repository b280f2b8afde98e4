from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cartrita.eventstore import arrays
from tests.databases import Database

YEARS = (datetime(1, 1, 2), datetime(9999, 12, 30))  # noqa: DTZ001 - hypothesis adds the zone
TIMES = st.datetimes(*YEARS, timezones=st.just(UTC))
COLUMNS: dict[str, tuple[Callable[[Any], Any], st.SearchStrategy[Any]]] = {
    "uuid": (arrays.uuids, st.none() | st.uuids()),
    "bool": (arrays.booleans, st.booleans()),
    "int2": (arrays.integers2, st.integers(-(2**15), 2**15 - 1)),
    "int4": (arrays.integers4, st.integers(-(2**31), 2**31 - 1)),
    "int8": (arrays.integers8, st.integers(-(2**63), 2**63 - 1)),
    "timestamptz": (arrays.times, TIMES),
    "text": (arrays.texts, st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))),
    "bytea": (arrays.byteas, st.binary()),
}


class TestArrays:
    @pytest.mark.parametrize("type_name", COLUMNS)
    def test_come_back_as_they_went(self, database: Database, type_name: str) -> None:
        pack, values = COLUMNS[type_name]
        with psycopg.connect(database.url, options="-c TimeZone=UTC") as session:

            @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
            @given(st.lists(values, max_size=20), st.integers(1, 3), st.booleans())
            def check(column: Sequence[Any], times: int, ends_alike: bool) -> None:
                # Of one value several times, and with the same at both ends.
                column = [*column, *column[:1]] if ends_alike else [*column] * times
                row = session.execute(f"select %b::{type_name}[]", [pack(column)], binary=True).fetchone()
                assert row == (list(column),)

            check()
