"""What people do under governance in these flows: rules, reviewers, tools with effects."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from cartrita.accounts.commands import ensure_user, set_roles
from cartrita.accounts.queries import Caller, caller_in_workspace
from cartrita.eventstore import Event, RecordedEvent, aread_log, follow, in_database_thread
from cartrita.tools import registry
from cartrita.tools.registry import Parameters, ToolCall, tool
from governance.approval import ApprovalRequested
from governance.commands import approvals, policies
from tests.flows.conftest import Person

E = TypeVar("E", bound=Event)

ALLOW_THE_REST = """
  - name: everything-else
    sentence: The rest is allowed.
    priority: 9000
    match: {kinds: [plan, model_call, tool_call, retrieval, document, message_out]}
    outcome: allow
"""


def rules(*texts: str) -> str:
    """Return a policy of these rules, which allows what they do not speak of."""
    return "policy: flows\nrules:" + "".join(texts) + ALLOW_THE_REST


def escalating(
    name: str, kind: str, *, condition: str = "", tools: Sequence[str] = (), more: str = ""
) -> str:
    """Return a rule that asks a reviewer."""
    match = f"{{kinds: [{kind}]" + (f", tools: [{', '.join(tools)}]}}" if tools else "}")
    asked = f"\n    condition: {condition}" if condition else ""
    return f"""
  - name: {name}
    sentence: A reviewer approves this {kind}.
    priority: 100
    match: {match}{asked}
    outcome: escalate
    parameters: {{approvers: [reviewer], expires_in: 1h, scopes: [once, session]{more}}}
"""


class Reviewer(Person):
    """Somebody who approves and denies in the workspace of another."""

    @property
    def caller(self) -> Caller:
        found = caller_in_workspace(self.user_id, self.workspace_id)
        assert found is not None
        return found

    async def approves(self, approval_id: UUID, **more: Any) -> None:
        await in_database_thread(
            lambda: approvals.approve(approval_id=approval_id, caller=self.caller, **more)
        )

    async def denies(self, approval_id: UUID, text: str = "") -> None:
        await in_database_thread(
            lambda: approvals.deny(approval_id=approval_id, caller=self.caller, text=text)
        )

    async def changes_rules(self, author: Person, text: str) -> None:
        """Put in force what the author proposes."""

        def change() -> None:
            by = caller_in_workspace(author.user_id, author.workspace_id)
            assert by is not None
            workspace_id = author.workspace_id
            policies.import_policy(workspace_id=workspace_id, text=text, caller=by)
            (proposed,) = policies.propose(workspace_id=workspace_id, caller=by)
            policies.activate(
                workspace_id=workspace_id,
                policy_hash=proposed.as_dict()["policy_hash"],
                caller=self.caller,
            )

        await in_database_thread(change)

    async def edits(self, approval_id: UUID, arguments: dict[str, Any]) -> None:
        await in_database_thread(
            lambda: approvals.edit_arguments(approval_id=approval_id, caller=self.caller, arguments=arguments)
        )


def a_reviewer(
    person: Person, email: str = "rita@example.com", roles: Sequence[str] = ("member", "reviewer")
) -> Reviewer:
    """Return another member of the person's workspace, with these roles."""
    user = ensure_user(email=email, display_name=email.partition("@")[0].title())
    set_roles(workspace_id=person.workspace_id, user_id=user.id, roles=roles, actor="system")
    return Reviewer(user.id, person.workspace_id)


async def events_of(session_id: UUID) -> list[RecordedEvent]:
    return await aread_log(after=0, limit=2000, session_id=session_id)


def of_type(events: Sequence[RecordedEvent], kind: type[E]) -> list[E]:
    return [each.event for each in events if isinstance(each.event, kind)]


async def requested(session_id: UUID, *, number: int = 1) -> UUID:
    """Wait for the request for approval of that number in a session and return its id."""
    seen: list[UUID] = []
    async for batch in follow(after=0, session_id=session_id):
        seen += [each.stream_id for each in batch if isinstance(each.event, ApprovalRequested)]
        if len(seen) >= number:
            return seen[number - 1]
    raise AssertionError("the log never ends")


class Sends(Parameters):
    """Parameters of the tools of these flows."""

    text: str
    times: int = 1


class Sent(Parameters):
    """Their result."""

    text: str


@contextmanager
def registered(
    name: str, effects: Path, *, fails: bool = False, seconds: float = 0, **definition: Any
) -> Iterator[None]:
    """Register a tool that leaves a line in a file for each call."""

    async def function(arguments: Sends, call: ToolCall) -> Sent:
        with effects.open("a") as file:
            file.write(arguments.text + "\n")
        await asyncio.sleep(seconds)
        if fails:
            raise RuntimeError("it does not work")
        return Sent(text=f"sent {arguments.text}")

    before = dict(registry._tools)
    tool(name, description="Send a text.", category="network", **definition)(function)
    try:
        yield
    finally:
        registry._tools.clear()
        registry._tools.update(before)


def effects(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
