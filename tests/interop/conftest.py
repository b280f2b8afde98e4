"""A server process with what other programs speak, a token for it, and what its log says afterwards."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import pytest
from django.core.management import call_command
from openai import AsyncOpenAI, OpenAI

from cartrita.eventstore import Event, RecordedEvent, read_log, run_following
from governance.decision import ActSettled, DecisionMade
from governance.queries.decisions import recount, redecide_all
from sessions_app.session import MessagePosted
from tests.accounts.people import Person, someone
from tests.databases import Database
from tests.servers import Server, listening_server

E = TypeVar("E", bound=Event)


@dataclass(frozen=True, slots=True)
class Api:
    """A server and somebody whose programs call it."""

    server: Server
    person: Person
    token: str

    @property
    def url(self) -> str:
        return f"{self.server.url}/v1"

    def client(self, *, token: str | None = None, retries: int = 0) -> OpenAI:
        return OpenAI(base_url=self.url, api_key=token or self.token, max_retries=retries, timeout=60)

    def async_client(self) -> AsyncOpenAI:
        return AsyncOpenAI(base_url=self.url, api_key=self.token, max_retries=0, timeout=60)

    def events(self, session_id: str | UUID) -> list[RecordedEvent]:
        return read_log(after=0, limit=5000, session_id=UUID(str(session_id)))

    def says(self, *answers: dict[str, object], seconds_per_token: float = 0) -> None:
        assert self.server.script is not None
        self.server.script.answers(*answers, seconds_per_token=seconds_per_token)


def of_type(events: Sequence[RecordedEvent], kind: type[E]) -> list[E]:
    return [each.event for each in events if isinstance(each.event, kind)]


@pytest.fixture
def api(database: Database, tmp_path: Path) -> Iterator[Api]:
    """Return a server whose model is scripted; afterwards its log is whole and its read models agree."""
    person = someone(roles=("member", "admin"))
    with listening_server(database, tmp_path, scripted=True) as server:
        server.start()
        yield Api(server, person, person.token("read", "write"))
        server.stop()
    run_following()
    _every_call_is_governed()
    with database.as_owner():
        call_command("rebuild_projections", check=True)
    call_command("verify_log")
    assert recount() == []
    assert redecide_all()[1] == []


def _every_call_is_governed() -> None:
    """Each message has decisions of its own, and each permitted act is settled, with what it cost."""
    events = read_log(after=0, limit=100_000)
    decided = {each.stream_id: each for each in events if isinstance(each.event, DecisionMade)}
    causes = {each.causation_id for each in decided.values()}
    asked = [each for each in events if isinstance(each.event, MessagePosted) and not each.event.context]
    assert all(each.event_id in causes for each in asked)
    settled = {each.stream_id for each in events if isinstance(each.event, ActSettled)}
    reserved = {name for name, each in decided.items() if each.event.reserved}
    assert reserved <= settled
