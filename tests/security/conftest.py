from typing import Any

import pytest
from django.test import Client
from pytest_django import Settings

from tests.accounts.people import Person, someone
from tests.databases import Database
from tests.flows.conftest import ScriptedModel, consistent, model, person

__all__ = ["ScriptedModel", "consistent", "model", "person"]


@pytest.fixture
def ann(database: Database) -> Person:
    return someone(roles=("member", "admin"))


@pytest.fixture
def bob(database: Database) -> Person:
    """Somebody of another workspace."""
    return someone("bob@example.org")


def browser_of(person: Person, **options: Any) -> Client:
    """Return a browser in which the person is signed in."""
    client = Client(**options)
    client.force_login(person.user)
    return client


@pytest.fixture
def static_files_as_served(settings: Settings) -> None:
    """Look all static files up beforehand, as a server does; tests/settings.py leaves that out."""
    settings.WHITENOISE_AUTOREFRESH = False
