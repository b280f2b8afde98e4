"""What is written from the event classes (page, schemas), and the golden files of stored versions."""

import json
import os
from enum import Enum
from io import StringIO
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import pytest
from django.conf import settings as django_settings
from django.core.management import CommandError, call_command
from pydantic import BaseModel, Field
from pytest_django.fixtures import Settings

from cartrita.eventstore import Event, Sealed, documentation, registry
from tests.eventstore import examples
from tests.eventstore.test_registry import Moved

SCHEMAS = Path(__file__).parent / "schemas"
GOLDEN = Path(__file__).parent / "golden"

HOW_TO_UPDATE = (
    "The stored shape of events changed. Stored bytes are never rewritten: where events of the old shape may "
    "exist, raise schema_version and write an upcaster with a golden file. Then look at the difference that "
    "`UPDATE_SCHEMAS=1 pytest tests/eventstore/test_documentation.py` makes, and commit it."
)

HOW_TO_ADD = (
    "Each version of an event type has a golden file, tests/eventstore/golden/<type>.<version>.json: what is "
    "stored, and what it is read as today. `UPDATE_GOLDEN=1 pytest tests/eventstore/test_documentation.py` "
    "writes that of a new type or version; the one before stays, and its `today` becomes what the upcaster "
    "makes of it."
)


class TestTheSchemas:
    def test_are_what_the_snapshot_says(self) -> None:
        current = documentation.schemas()
        if os.environ.get("UPDATE_SCHEMAS"):
            for file in SCHEMAS.glob("*.json"):
                file.unlink()
            for name, schema in current.items():
                (SCHEMAS / name).write_bytes(schema)
        snapshot = {file.name: file.read_bytes() for file in SCHEMAS.glob("*.json")}
        changed = sorted(name for name in current | snapshot if current.get(name) != snapshot.get(name))
        assert changed == [], HOW_TO_UPDATE


class TestGoldenFiles:
    """Each version that any event may be stored in, as it was when that version was today's."""

    def test_exist_for_every_version_that_may_be_stored(self) -> None:
        classes: list[type[Event]] = [*documentation.product_events(), Moved]
        current = {f"{cls.type_name}.{cls.schema_version}.json": cls for cls in classes}
        if os.environ.get("UPDATE_GOLDEN"):
            for name, cls in current.items():
                # What stands is of events that are stored somewhere: it is never written again.
                if not (GOLDEN / name).exists():
                    stored = examples.stored_example(cls)
                    (GOLDEN / name).write_text(json.dumps({"stored": stored, "today": stored}) + "\n")
        upcast = {f"{type_name}.{version}.json" for type_name, version in registry._upcasters}
        assert {file.name for file in GOLDEN.glob("*.json")} == current.keys() | upcast, HOW_TO_ADD

    @pytest.mark.parametrize("file", sorted(GOLDEN.glob("*.json")), ids=lambda file: file.stem)
    def test_are_read_as_todays_shape(self, file: Path) -> None:
        type_name, _, version = file.stem.rpartition(".")
        golden = json.loads(file.read_text())
        cls, fields = registry.upcast(type_name, int(version), golden["stored"])
        # Sealed fields are tokens, of whatever type they are.
        read = registry.shape(cls).lenient.model_validate(fields)
        # A field with a default may have come since, without a new version.
        assert read.model_dump(mode="json") == read.model_dump(mode="json") | golden["today"]

    def test_are_of_a_type_that_exists(self) -> None:
        assert registry.event_class("registry_tests.Moved") is Moved


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Part(BaseModel):
    """One piece of it."""

    name: str
    count: int | None = None


class Shown(Event):
    """Something was shown | or not.

    More about it.
    """

    note: Sealed[str]
    colour: Colour
    kind: Literal["a", "b"] = "b"
    parts: tuple[Part, ...] = ()
    by_name: dict[str, int] = Field(default_factory=dict, description="How often\n    each name was seen.")
    anything: Any = None


class TestThePage:
    def test_describes_every_field(self) -> None:
        class Listed(Shown):
            """Something was shown | or not.

            More about it.
            """

            type_name = "eventstore.Shown"

        with mock.patch.object(documentation, "product_events", return_value=[Listed]):
            page = documentation.events_page()
        for line in [
            "| [eventstore.Shown](#eventstoreshown) | 1 | Something was shown \\| or not. |",
            "The event store app (`eventstore`) records this event: Shown.",
            "| `note` | text | **sealed** |",
            "| `colour` | `red` or `blue` |  |",
            "| `kind` | `a` or `b` | `'b'` unless given |",
            "| `parts` | list of Part |  |",
            "| `by_name` | object of text to integer | How often each name was seen. |",
            "| `anything` | any JSON |  |",
            "A **Part**: One piece of it.",
            "| `count` | integer or nothing |  |",
        ]:
            assert line in page.splitlines()

    def test_shows_the_products_events_only(self) -> None:
        names = [cls.type_name for cls in documentation.product_events()]
        assert "eventstore.KeyErased" in names
        assert not [name for name in names if "_tests." in name]

    def test_does_not_depend_on_what_else_is_imported(self) -> None:
        modules = {cls.__module__ for cls in documentation.product_events()}
        assert modules <= set(django_settings.EVENT_MODULES), "list the module in settings.EVENT_MODULES"

    def test_is_up_to_date(self) -> None:
        call_command("events_docs", "--check")

    def test_is_written_by_the_command(self, settings: Settings, tmp_path: Path) -> None:
        (tmp_path / "docs").mkdir()
        settings.BASE_DIR = tmp_path
        with pytest.raises(CommandError, match=r"run manage\.py events_docs"):
            call_command("events_docs", "--check")
        call_command("events_docs", stdout=StringIO())
        assert (tmp_path / "docs" / "events.md").read_text() == documentation.events_page()
        call_command("events_docs", "--check")
