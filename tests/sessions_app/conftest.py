"""People, and a check after each flow that the read models are what the events say."""

from collections.abc import Callable, Iterator

import pytest
from django.core.management import call_command

from tests.accounts.people import Person, someone
from tests.databases import Database


@pytest.fixture
def check_read_models(database: Database) -> Callable[[], None]:
    def check() -> None:
        with database.as_owner():
            call_command("rebuild_projections", check=True)

    return check


@pytest.fixture
def flow(database: Database, check_read_models: Callable[[], None]) -> Iterator[Database]:
    """A database whose read models equal their rebuild when the test is over."""
    yield database
    check_read_models()


@pytest.fixture
def ann(flow: Database) -> Person:
    return someone()


@pytest.fixture
def bob(flow: Database) -> Person:
    """Somebody of another workspace."""
    return someone("bob@example.org")
