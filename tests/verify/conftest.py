import asyncio
import base64
from collections.abc import Callable

import pytest
from pytest_django import Settings

from cartrita.eventstore import Sequencer
from cartrita.eventstore.heads import Signing
from cartrita.eventstore.signing import known_keys
from tests.databases import Database

SignAll = Callable[[], list[str]]


@pytest.fixture
def sign_all(database: Database, settings: Settings) -> SignAll:
    """A function that orders and signs what was appended, and returns the installation's verifier keys."""
    settings.SIGNING_KEY = base64.b64encode(b"\x01" * 32).decode()

    def order_and_sign() -> list[str]:
        asyncio.run(Sequencer().order())
        Signing().sign(pause=0)
        return [str(key) for key in known_keys()]

    return order_and_sign
