"""What the OpenAPI schema promises is so: every role, and nobody, with all checks of Schemathesis."""

import logging
from collections.abc import Iterator

import pytest
from pytest_django import Settings

from tests.contract.explored import PHASES, explore
from tests.databases import Database
from tests.permissions.world import ROLES, build, conversation

ALL_SCOPES = ("read", "write", "tokens")


@pytest.fixture
def undisturbed(settings: Settings) -> Iterator[None]:
    """Refuse nobody for asking often, and log none of the thousands of refusals."""
    settings.REQUESTS_PER_MINUTE = settings.ANONYMOUS_REQUESTS_PER_MINUTE = 0
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(before)


def require_nothing_found(role: str, *, examples: int, phases: tuple[str, ...]) -> None:
    """Fail with what all checks find as this role, on a world with things of its own."""
    world = build()
    secret, things = None, world.things
    if role in ROLES:
        person = world.people[role]
        secret = person.token(*ALL_SCOPES)
        things = {**things, **conversation(person, person.workspace_id)}
    explored = explore(secret, things=things, examples=examples, phases=phases)
    # `pytest -s` shows it, or `-rP`.
    print(f"{role}: {explored}")  # noqa: T201
    if explored.found:
        # Not by assert, which shortens long texts.
        pytest.fail("\n\n".join(f"{what}\n{how}" for what, how in explored.found.items()), pytrace=False)


# Large bodies are meant.
@pytest.mark.filterwarnings("ignore:Generating overly large repr")
class TestContract:
    @pytest.mark.timeout(300)
    @pytest.mark.parametrize("role", ["nobody", "member", "admin"])
    def test_holds(self, role: str, database: Database, undisturbed: None) -> None:
        require_nothing_found(role, examples=1, phases=("examples", "fuzzing"))

    @pytest.mark.slow
    @pytest.mark.timeout(1800)
    @pytest.mark.parametrize("role", ["nobody", *ROLES])
    def test_holds_for_everybody_in_depth(self, role: str, database: Database, undisturbed: None) -> None:
        require_nothing_found(role, examples=20, phases=PHASES)
