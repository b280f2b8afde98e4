"""Two workspaces with everything that can be asked for, and everybody who may ask.

Texts of the first hold the word MARK, what was said in its conversations SAID, what is to be approved ASKED.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from http.cookies import SimpleCookie
from typing import Any
from uuid import UUID

from django.contrib.auth.models import Group
from django.test import Client
from django.utils import timezone
from django_celery_beat import models as beat

from cartrita.accounts import commands as accounts
from cartrita.accounts.models import User
from cartrita.accounts.team_commands import create_team
from cartrita.accounts.workspace import create
from cartrita.eventstore import Append, Context, append, new_id
from cartrita.eventstore.heads import Signing
from cartrita.eventstore.models import Log, TreeHead
from cartrita.llm.models import Circuit
from cartrita.tools.registry import tool
from cartrita.upkeep.models import Job
from governance.commands import approvals, backtests, break_glass, budgets, policies
from governance.decide import DecisionRequest
from governance.models import Approval, PolicyRule
from governance.queries import policies as policy_queries
from governance.step import Act, take_step
from retrieval import ingest
from retrieval.commands import receive_document
from retrieval.searching import search_as
from sessions_app.queries import key_of
from tasks_app.models import SnapshotRow
from tests.accounts.people import Person
from tests.governance.approvals import as_caller
from tests.governance.policies import rule
from tests.tasks_app.written import Written, ordered

# Long, or the random letters of a token or nonce spell one of them in one of some fifty runs.
MARK = "equus-quagga"
SAID = "okapia-johnstoni"
ASKED = "tapirus-terrestris"
WORD = "zebra"
TEXT = f"# Stripes\n\nThe {WORD} is called {{}} here and eats 17 thistles a day."

ROLES = ("member", "reviewer", "operator", "admin", "policy_author", "auditor")
HERE = (*ROLES, "owner", "crossed")
ELSEWHERE = (*(f"{role}_elsewhere" for role in ROLES), "left")
TOKENS = ("read", "write", "ended")
CALLERS = ("nobody", *HERE, *ELSEWHERE, *TOKENS, "superuser")


@dataclass(frozen=True, slots=True)
class World:
    """`clients` by caller; `things` are what addresses name, `left_things` those of whoever left."""

    clients: Mapping[str, Client]
    people: Mapping[str, Person]
    tokens: Mapping[str, str]
    things: Mapping[str, Any]
    left_things: Mapping[str, Any]

    def client(self, caller: str) -> Client:
        """Return a client with the cookies that the caller had in the beginning."""
        kept = self.clients[caller]
        client = Client(headers=self.headers(caller))
        client.cookies = SimpleCookie({name: morsel.value for name, morsel in kept.cookies.items()})
        return client

    def headers(self, caller: str) -> dict[str, str]:
        """Return what a program sends."""
        return {"Authorization": f"Bearer {self.tokens[caller]}"} if caller in self.tokens else {}

    def named(self, caller: str) -> Mapping[str, Any]:
        """Return what the addresses that this caller asks name."""
        return {**self.things, **self.left_things} if caller == "left" else self.things


def build() -> World:
    """Make both workspaces, with real commits. Call it with a database."""
    here, elsewhere = new_workspace(f"{MARK} team"), new_workspace("Bongo team")
    people = {
        name: new_person(f"{MARK}-{name}", {here: ("member", name) if name in ROLES else ("member",)})
        for name in (*ROLES, "owner", "proposer")
    }
    people |= {
        f"{role}_elsewhere": new_person(f"bongo-{role}", {elsewhere: ("member", role)}) for role in ROLES
    }
    people["crossed"] = new_person("bridge", {here: ("member",), elsewhere: ("admin",)})
    people["left"] = new_person("leaver", {here: ("member",)})
    accounts.set_roles(
        workspace_id=here, user_id=people["proposer"].id, roles=("policy_author",), actor="system"
    )
    things = furnish(people, here)
    left = conversation(people["left"], here)
    accounts.set_roles(workspace_id=elsewhere, user_id=people["left"].id, roles=("member",), actor="system")
    accounts.remove_member(workspace_id=here, user_id=people["left"].id, actor="system")
    people["left"] = Person(people["left"].user, elsewhere)
    conversation(people["member_elsewhere"], elsewhere)
    _stock_rows()
    root = accounts.ensure_user(email="root@example.com", is_staff=True, is_superuser=True)
    ordered()
    Signing().sign(pause=0)
    things["size"] = TreeHead.objects.latest("size").size
    said = Log.objects.filter(session_id=things["session_id"]).order_by("position")
    things["position"] = said.values_list("position", flat=True)[0]
    nodes = SnapshotRow.objects.filter(plan_id=things["plan_id"]).order_by("version")
    things["version"] = nodes.values_list("version", flat=True)[0]
    clients = {name: _browser(person.user) for name, person in people.items() if name != "proposer"}
    tokens = {"read": people["owner"].token("read"), "write": people["owner"].token("write")}
    tokens["ended"] = _ended(people["owner"])
    clients |= dict.fromkeys((*tokens, "nobody"), Client())
    return World(
        clients={**clients, "superuser": _browser(root)},
        people=people,
        tokens=tokens,
        things=things,
        left_things=left,
    )


def new_workspace(name: str) -> UUID:
    workspace_id = new_id()
    append(Append(workspace_id, 0, create(name=name), Context(workspace_id=workspace_id, actor="system")))
    return workspace_id


def new_person(name: str, workspaces: Mapping[UUID, tuple[str, ...]]) -> Person:
    # Staff, so that the roles alone keep the console's doors.
    user = accounts.ensure_user(email=f"{name}@example.com", display_name=name.title(), is_staff=True)
    for workspace_id, roles in workspaces.items():
        accounts.set_roles(workspace_id=workspace_id, user_id=user.pk, roles=roles, actor="system")
    return Person(user, next(iter(workspaces)))


def _stock_rows() -> None:
    """Make a row of each kind that Django, beat and the circuits keep."""
    Circuit.objects.create(id=new_id(), provider="openai", model="gpt-4o")
    Group.objects.create(name=f"{MARK} group")
    Job.objects.create(name="none", began_at=timezone.now())
    interval = beat.IntervalSchedule.objects.create(every=1, period="days")
    beat.CrontabSchedule.objects.create()
    beat.SolarSchedule.objects.create(event="sunset", latitude=1, longitude=1)
    beat.ClockedSchedule.objects.create(clocked_time=timezone.now())
    beat.PeriodicTask.objects.create(name=f"{MARK} task", task="none", interval=interval)


def _browser(user: User) -> Client:
    client = Client()
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return client


def _ended(owner: Person) -> str:
    now = timezone.now()
    issued = accounts.issue_token(
        user_id=owner.id,
        workspace_id=owner.workspace_id,
        name="ended",
        scopes=("read", "write", "tokens"),
        actor="system",
        now=now,
    )
    accounts.revoke_token(token_id=issued.token_id, user_id=owner.id, actor="system")
    return issued.secret


def furnish(people: Mapping[str, Person], workspace_id: UUID) -> dict[str, Any]:
    owner = people["owner"]
    things = conversation(owner, workspace_id)
    asked, granted = (asks_for_python(owner, things["session_id"], number, ASKED) for number in (2, 3))
    approvals.ask(approval_id=asked.id, caller=as_caller(people["reviewer"]), text=f"Why {ASKED}?")
    approvals.approve(approval_id=granted.id, caller=as_caller(people["reviewer"]))
    author, proposer = as_caller(people["policy_author"]), as_caller(people["proposer"])
    policy_queries.active_policy(workspace_id)
    name = f"{MARK}-rule"
    policies.write_rule(
        workspace_id=workspace_id, definition=rule(name, condition="tool.name == 'none'"), caller=author
    )
    policies.propose(workspace_id=workspace_id, caller=proposer, note=f"The {MARK} rule.")
    draft = policy_queries.draft(workspace_id)
    policies.shadow(workspace_id=workspace_id, caller=author, policy_hash=draft.policy_hash)
    budgets.set_budget(
        caller=as_caller(people["operator"]),
        name=f"{MARK} budget",
        scope_kind="user",
        scope=str(owner.id),
        period="month",
        limit_tokens=1_000_000,
    )
    (node,) = policy_budgets(workspace_id)
    team_id = create_team(caller=as_caller(people["admin"]), name=f"{MARK} crew", members=[owner.id])
    glass_id, _ = break_glass.open_break_glass(
        caller=as_caller(people["operator"]),
        reason=f"The {MARK} gateway is down.",
        minutes=480,
        # Not for the owner: what is asked in other sessions still waits for people.
        scope_kind="session",
        scope=str(things["session_id"]),
    )
    back_test_id, _ = backtests.request_back_test(
        workspace_id=workspace_id, caller=as_caller(people["policy_author"]), policy_hash=draft.policy_hash
    )
    issued = accounts.issue_token(
        user_id=owner.id,
        workspace_id=workspace_id,
        name=f"{MARK} token",
        scopes=("read",),
        actor="system",
        now=timezone.now(),
        expires_at=timezone.now() + timedelta(days=1),
    )
    return {
        **things,
        "approval_asked": asked.id,
        "approval_granted": granted.id,
        "budget_id": node,
        "team_id": team_id,
        "glass_id": glass_id,
        "back_test_id": back_test_id,
        "name": name,
        "rule_id": PolicyRule.objects.get(workspace_id=workspace_id, name=name).pk,
        "policy_hash": draft.policy_hash,
        "version_id": policy_queries.version_in_force(workspace_id).pk,
        "policy_text": policy_queries.draft(workspace_id).text,
        "token_id": issued.token_id,
        "workspace_id": workspace_id,
        "user_id": owner.id,
        "agent_name": "assistant",
        "model_name": "gpt-4o",
        "tool_name": "execute_python",
        "offer_name": "cartrita",
    }


def policy_budgets(workspace_id: UUID) -> list[UUID]:
    from governance.models import Budget

    return list(Budget.objects.filter(workspace_id=workspace_id).values_list("pk", flat=True))


def conversation(person: Person, workspace_id: UUID) -> dict[str, Any]:
    """Return what somebody's session with an answered question, a plan, documents and an approval holds."""
    mine = Person(person.user, workspace_id)
    ours = person.user.email.startswith((MARK, "leaver"))
    mark, said = (MARK, SAID) if ours else ("bongo", "bongo")
    written = Written(mine, question=f"Who is {said}?").propose([f"Look for {said}"])
    written.bill()
    run_id = written.complete(1)
    written.complete(0)
    reply_id = written.reply(f"The {said} is striped.")
    kept = {
        key: receive_document(
            workspace_id=workspace_id,
            owner_id=person.id,
            title=f"{word} {key}",
            media_type="text/markdown",
            content=TEXT.format(word).encode(),
            session_id=session_id,
            actor=f"user:{person.id}",
        )
        for key, session_id, word in (
            ("document_id", None, mark),
            ("attachment_id", written.session_id, said),
        )
    }
    ingest.process_pending()
    approval = asks_for_python(mine, written.session_id, 1, ASKED if ours else "bongo")
    return {
        **kept,
        "session_id": written.session_id,
        "message_id": reply_id,
        "plan_id": written.plan_id,
        "run_id": run_id,
        "approval_id": approval.id,
        "decision_id": approval.decision_id,
        "retrieval_id": search_as(as_caller(mine), WORD, session_id=written.session_id).retrieval_id,
    }


def asks_for_python(person: Person, session_id: UUID, number: int, word: str) -> Approval:
    """Let the session ask for a snippet of Python, which the starter policy escalates to reviewers."""
    python = tool("execute_python")
    request = DecisionRequest(
        subject_kind="tool_call",
        workspace_id=person.workspace_id,
        session_id=session_id,
        at=timezone.now(),
        actor=f"user:{person.id}",
        agent="assistant",
        tool=python.name,
        safety_level=python.safety,
        definition_hash=python.definition_hash,
        arguments={"code": f"print('{word}', {number})"},
    )
    context = Context(
        workspace_id=person.workspace_id,
        session_id=session_id,
        actor="agent:assistant",
        key_id=key_of(session_id),
    )
    (decided,) = take_step(
        context=context, acts=[Act(request=request, decision_id=new_id(), requester_id=person.id)]
    )
    assert decided.approval_id is not None
    return Approval.objects.get(id=decided.approval_id)
