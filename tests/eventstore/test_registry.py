from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from unittest import mock
from uuid import UUID

import orjson
import pytest
from pydantic import BaseModel, ValidationError

from cartrita.eventstore import Event, Sealed, all_event_classes, codec, event_class, registry, upcaster
from cartrita.eventstore.codec import EventUnreadable
from cartrita.eventstore.registry import EventTypesWrong, UnknownEventType
from tests.eventstore.notes import NoteWritten


class Moved(Event):
    type_name = "registry_tests.Moved"
    schema_version = 3

    place: str
    reason: Sealed[str]


upcaster("registry_tests.Moved", 1)(lambda stored: {**stored, "place": stored["place"].title()})
upcaster("registry_tests.Moved", 2)(lambda stored: {"place": stored["place"], "reason": stored["why"]})


@pytest.fixture
def upcasters() -> Iterator[dict[tuple[str, int], Any]]:
    with mock.patch.dict(registry._upcasters) as registered:
        yield registered


def a_row(data: dict[str, Any], *, type_name: str, version: int) -> tuple[Any, ...]:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    ids = UUID(int=1)
    return (
        7,
        ids,
        1,
        ids,
        type_name,
        version,
        moment,
        ids,
        None,
        None,
        "system",
        "",
        None,
        orjson.dumps(data),
    )


class TestEventClass:
    def test_finds_a_class_by_its_type_name(self) -> None:
        assert event_class("store_tests.NoteWritten") is NoteWritten

    def test_names_the_remedy_for_an_unknown_one(self) -> None:
        with pytest.raises(UnknownEventType, match=r"settings\.EVENT_MODULES"):
            event_class("nobody.Knows")

    def test_lists_each_type_once(self) -> None:
        names = [cls.type_name for cls in all_event_classes()]
        assert names == sorted(set(names))


class TestCheckEventTypes:
    def test_refuses_a_gap(self, upcasters: dict[tuple[str, int], Any]) -> None:
        del upcasters["registry_tests.Moved", 2]
        with pytest.raises(EventTypesWrong, match=r"registry_tests.Moved is at version 3 .* from version 2"):
            registry.check_event_types()

    def test_refuses_a_cycle(self, upcasters: dict[tuple[str, int], Any]) -> None:
        upcaster("registry_tests.Old", 1)(dict)
        upcaster("registry_tests.Old", 2, to_version=1)(dict)
        with pytest.raises(EventTypesWrong, match=r"cycle: registry_tests.Old 1 -> registry_tests.Old 2"):
            registry.check_event_types()

    def test_refuses_a_chain_that_ends_at_no_class(self, upcasters: dict[tuple[str, int], Any]) -> None:
        upcaster("registry_tests.Old", 1)(dict)
        with pytest.raises(EventTypesWrong, match=r"end at registry_tests\.Old 2, which is no class"):
            registry.check_event_types()

    def test_accepts_a_whole_chain_and_a_renamed_type(self, upcasters: dict[tuple[str, int], Any]) -> None:
        upcaster("registry_tests.Old", 1, to_type="registry_tests.Moved", to_version=2)(dict)
        registry.check_event_types()
        assert registry.stored_names([Moved]) == ["registry_tests.Moved", "registry_tests.Old"]

    def test_refuses_two_upcasters_from_one_version(self) -> None:
        with pytest.raises(EventTypesWrong, match="Two upcasters"):
            upcaster("registry_tests.Moved", 1)(dict)

    @pytest.mark.parametrize("name", ["registry_tests.Moved", "NoApp", "bad.lower"])
    def test_refuses_doubled_and_malformed_type_names(self, name: str) -> None:
        # No subclass of Event: the real registry would find it in the tests after this one.
        other = type("Other", (), {"type_name": name})
        with (
            mock.patch.object(registry, "_descendants", return_value=iter([Moved, other])),
            pytest.raises(EventTypesWrong, match=name),
        ):
            all_event_classes()

    def test_refuses_sealed_inside_another_type(self) -> None:
        class Inner(BaseModel):
            text: Sealed[str]

        class Outer(Event):
            inner: list[Inner]

        class Optional(Event):
            text: Sealed[str] | None

        for cls in (Outer, Optional):
            with pytest.raises(EventTypesWrong, match="has Sealed inside another type"):
                registry.shape(cls)


class TestDecode:
    @pytest.mark.parametrize(
        ("version", "stored"),
        [
            (1, {"place": "rome", "why": "work"}),
            (2, {"place": "Rome", "why": "work"}),
            (3, {"place": "Rome", "reason": "work"}),
        ],
    )
    def test_reads_every_version_as_todays(self, version: int, stored: dict[str, Any]) -> None:
        recorded = codec.decode(a_row(stored, type_name="registry_tests.Moved", version=version), {})
        assert recorded.event == Moved(place="Rome", reason="work")
        assert recorded.schema_version == version
        assert recorded.data == orjson.dumps(stored)

    def test_says_which_event_does_not_fit(self) -> None:
        with pytest.raises(EventUnreadable, match=r"(?s)Event 1 of stream 0{8}-.*place") as caught:
            codec.decode(a_row({"reason": "my secret"}, type_name="registry_tests.Moved", version=3), {})
        assert "secret" not in caught.value.message


class TestTimes:
    class Timed(Event):
        at: datetime
        also: tuple[datetime, ...] = ()

    def test_are_written_in_utc_with_microseconds(self) -> None:
        noon = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
        event = self.Timed(at=noon, also=(noon,))
        assert event.model_dump(mode="json") == {
            "at": "2026-01-01T10:00:00.000000Z",
            "also": ["2026-01-01T10:00:00.000000Z"],
        }
        assert self.Timed.model_validate_json(event.model_dump_json()) == event

    def test_need_a_zone(self) -> None:
        with pytest.raises(ValidationError, match="timezone"):
            self.Timed(at=datetime(2026, 1, 1))  # noqa: DTZ001
