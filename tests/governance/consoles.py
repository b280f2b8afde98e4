"""People who look after a workspace, and what waits for them, for tests of the console."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from django.test import Client
from django.utils import timezone

from cartrita.accounts.commands import ensure_user, set_roles
from cartrita.accounts.models import User
from cartrita.accounts.queries import Caller, caller_in_workspace
from cartrita.accounts.workspace import create
from cartrita.eventstore import Append, Context, append, create_data_key, new_id
from cartrita.tools.registry import tool
from governance.decide import DecisionRequest
from governance.models import Approval, PolicyDecision
from governance.step import Act, take_step

ROLES = ("reviewer", "operator", "admin", "policy_author", "auditor")


@dataclass(frozen=True, slots=True)
class Guardian:
    """Somebody with roles in a workspace, signed in to the console."""

    user: User
    workspace_id: UUID
    client: Client

    @property
    def caller(self) -> Caller:
        found = caller_in_workspace(self.user.pk, self.workspace_id)
        assert found is not None
        return found


def new_workspace() -> UUID:
    """Return a workspace without an owner, so that the test's people are the only ones."""
    workspace_id = new_id()
    append(Append(workspace_id, 0, create(name="Team"), Context(workspace_id=workspace_id, actor="system")))
    return workspace_id


def guardian(workspace_id: UUID, *roles: str, name: str = "") -> Guardian:
    user = ensure_user(email=f"{uuid4().hex}@example.com", display_name=name, is_staff=True)
    if roles:
        set_roles(workspace_id=workspace_id, user_id=user.pk, roles=["member", *roles], actor="system")
    client = Client()
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return Guardian(user, workspace_id, client)


def asks_for_python(
    workspace_id: UUID, arguments: dict[str, Any] | None = None, *, requester_id: UUID | None = None
) -> Approval:
    """Let a session ask for a snippet of Python, which the starter policy escalates to reviewers."""
    session_id = new_id()
    key_id = create_data_key(subject_id=requester_id or new_id(), scope="session")
    python = tool("execute_python")
    request = DecisionRequest(
        subject_kind="tool_call",
        workspace_id=workspace_id,
        session_id=session_id,
        at=timezone.now(),
        actor=f"user:{requester_id}" if requester_id else "agent:tester",
        agent="tester",
        tool=python.name,
        safety_level=python.safety,
        definition_hash=python.definition_hash,
        arguments={"code": "print(1)"} if arguments is None else arguments,
    )
    context = Context(workspace_id=workspace_id, session_id=session_id, actor="agent:tester", key_id=key_id)
    (decided,) = take_step(
        context=context, acts=[Act(request=request, decision_id=new_id(), requester_id=requester_id)]
    )
    assert decided.approval_id is not None
    return Approval.objects.get(id=decided.approval_id)


def held_answer(workspace_id: UUID, text: str, *, requester_id: UUID) -> Approval:
    """Let a session hold back an answer that reviewers read first."""
    session_id = new_id()
    key_id = create_data_key(subject_id=requester_id, scope="session")
    request = DecisionRequest(
        subject_kind="message_out",
        workspace_id=workspace_id,
        session_id=session_id,
        at=timezone.now(),
        actor=f"user:{requester_id}",
        agent="tester",
        arguments={"to": f"user:{requester_id}", "mode": "held", "text": text},
    )
    context = Context(workspace_id=workspace_id, session_id=session_id, actor="agent:tester", key_id=key_id)
    (decided,) = take_step(
        context=context, acts=[Act(request=request, decision_id=new_id(), requester_id=requester_id)]
    )
    assert decided.approval_id is not None
    return Approval.objects.get(id=decided.approval_id)


def decision_of(approval: Approval) -> PolicyDecision:
    return PolicyDecision.objects.get(id=approval.decision_id)
