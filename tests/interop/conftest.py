"""A server process with what other programs speak, a token for it, and what its log says afterwards."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar
from uuid import UUID, uuid4

import pytest
from django.conf import settings
from django.core.management import call_command
from openai import OpenAI
from pytest_django import DjangoDbBlocker

from cartrita.embedded.postgres import Postgres
from cartrita.eventstore import Event, RecordedEvent, Sequencer, close_async, read_log, run_following
from governance.decision import ActSettled, DecisionMade
from governance.queries.decisions import recount, redecide_all
from sessions_app.session import MessagePosted
from tests.accounts.people import Person, someone
from tests.databases import Database, clone, close_django_connections, drop, point_django_at
from tests.flows.governed import escalating, rules
from tests.llm.openai_server import OpenAIServer, openai_server
from tests.servers import Server, listening_server

E = TypeVar("E", bound=Event)


@dataclass(frozen=True, slots=True)
class Api:
    """A server and somebody whose programs call it."""

    server: Server
    person: Person
    token: str
    clients: list[OpenAI] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"{self.server.url}/v1"

    def client(self, *, token: str | None = None, retries: int = 0) -> OpenAI:
        made = OpenAI(base_url=self.url, api_key=token or self.token, max_retries=retries, timeout=60)
        self.clients.append(made)
        return made

    def events(self, session_id: str | UUID) -> list[RecordedEvent]:
        return read_log(after=0, limit=5000, session_id=UUID(str(session_id)))

    def until(self, session_id: str | UUID, kind: type[Event]) -> list[RecordedEvent]:
        """Return the events of a session once there is one of that kind."""
        until = time.monotonic() + 60
        while time.monotonic() < until:
            events = self.events(session_id)
            if any(isinstance(each.event, kind) for each in events):
                return events
            time.sleep(0.05)
        raise AssertionError(f"no {kind.__name__} in session {session_id}")

    def says(self, *answers: dict[str, object], seconds_per_token: float = 0) -> None:
        assert self.server.script is not None
        self.server.script.answers(*answers, seconds_per_token=seconds_per_token)


def of_type(events: Sequence[RecordedEvent], kind: type[E]) -> list[E]:
    return [each.event for each in events if isinstance(each.event, kind)]


POLICY = rules(
    """
  - name: never
    sentence: This is never done.
    priority: 10
    match: {kinds: [plan]}
    condition: args.tasks.exists(task, task.intent.contains("FORBIDDEN"))
    outcome: deny
    message_for_people: A rule of this test forbids it.
""",
    """
  - name: one-a-minute
    sentence: This is done once a minute.
    priority: 20
    match: {kinds: [plan]}
    condition: args.tasks.exists(task, task.intent.contains("SLOWLY"))
    outcome: throttle
    parameters: {rate: 1/minute, burst: 1, per: user}
""",
    escalating("ask-first", "plan", condition='args.tasks.exists(task, task.intent.contains("ASK FIRST"))'),
    """
  - name: read-first
    sentence: What the writer says of secrets is read first.
    priority: 101
    match: {kinds: [message_out], agents: [writer]}
    condition: args.text.contains("SECRET")
    outcome: escalate
    parameters: {approvers: [reviewer], expires_in: 1h, scopes: [once]}
""",
    """
  - name: keys-are-redacted
    sentence: Keys are taken out of what a model says to programs of auditors.
    priority: 102
    match: {kinds: [message_out], agents: [relay], roles: [auditor]}
    outcome: audit
    parameters: {redact: [secret, private-key]}
""",
)


@pytest.fixture(scope="module")
def provider() -> Iterator[OpenAIServer]:
    """Return what answers in OpenAI's place."""
    with openai_server() as told:
        yield told


@pytest.fixture(scope="module")
def server(
    postgres_server: Postgres,
    database_template: str,
    django_db_blocker: DjangoDbBlocker,
    tmp_path_factory: pytest.TempPathFactory,
    provider: OpenAIServer,
) -> Iterator[Server]:
    """Start one server for a module; afterwards its log is whole, and its read models equal a rebuild.

    Its own model is scripted; those of OpenAI are the test's `provider`.
    """
    folder = tmp_path_factory.mktemp("server")
    policy = folder / "policy.yaml"
    policy.write_text(POLICY)
    database = clone(postgres_server, database_template)
    with pytest.MonkeyPatch.context() as patch, _pointed_at(database, django_db_blocker, patch):
        patch.setenv("CARTRITA_POLICY_FILE", str(policy))
        patch.setenv("OPENAI_API_KEY", "a-key-of-the-tests")
        patch.setenv("OPENAI_BASE_URL", provider.base_url)
        patch.setattr(settings, "POLICY_FILE", str(policy))
        with listening_server(database, folder, scripted=True) as started:
            started.start()
            close_django_connections()
            yield started
        asyncio.run(_order_the_rest())
        run_following()
        _every_call_is_governed()
        with database.as_owner():
            call_command("rebuild_projections", check=True)
        call_command("verify_log")
        assert recount() == []
        assert redecide_all()[1] == []
    drop(postgres_server, database.name)


@contextmanager
def _pointed_at(
    database: Database, django_db_blocker: DjangoDbBlocker, patch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Do what the fixture `database` does, for a whole module."""
    patch.setenv("DJANGO_SETTINGS_MODULE", "cartrita.settings")
    patch.setenv("DATABASE_URL", database.url)
    patch.setenv("DATABASE_OWNER_URL", database.owner_url)
    patch.setattr(settings, "DATABASE_OWNER_URL", database.owner_url)
    close_django_connections()
    former = point_django_at(database.url)
    with django_db_blocker.unblock():
        try:
            yield
        finally:
            close_django_connections()
            point_django_at(former)


@pytest.fixture
def api(server: Server, django_db_blocker: DjangoDbBlocker) -> Iterator[Api]:
    """Return the module's server, with somebody in a workspace of their own."""
    assert server.script is not None
    server.script.answers({"text": "The scripted answer."})
    with django_db_blocker.unblock():
        person = someone(f"{uuid4().hex}@example.org", roles=("member", "admin"))
        given = Api(server, person, person.token("read", "write"))
        yield given
        for client in given.clients:
            client.close()
        close_django_connections()


async def _order_the_rest() -> None:
    # What was committed in the last moments before the server stopped has no position yet.
    await Sequencer().order()
    await close_async()


def _every_call_is_governed() -> None:
    """Each message has decisions of its own, and each permitted act is settled, with what it cost."""
    events = read_log(after=0, limit=100_000)
    decided = {each.stream_id: each.event for each in events if isinstance(each.event, DecisionMade)}
    causes = {each.causation_id for each in events if isinstance(each.event, DecisionMade)}
    asked = [each for each in events if isinstance(each.event, MessagePosted) and not each.event.context]
    assert all(each.event_id in causes for each in asked)
    settled = {each.stream_id for each in events if isinstance(each.event, ActSettled)}
    reserved = {name for name, made in decided.items() if made.reserved}
    assert reserved <= settled
