"""How long the whole history takes to be decided again under another 100 rules, beside reading it alone.

Prints one JSON object a line: name, ours, peer, ratio (ours / peer), unit, runs, load (of one minute) and
what the peer is. A database of its own is filled through the event store's own append with synthetic
decisions (1,000,000; --quick: 20,000): sessions of sixteen acts of all kinds, under 100 rules of which some
are about each, with budgets, throttles and labels as steps state them, a tenth of the prompts in blobs. Then
it is decided again, by as many processes as there are cores,

- `same_rules`: under the set that decided, which must give no difference;
- `other_rules`: under a set with 12 of the 100 rules changed;
- `all_other`: under one with other conditions in all of them;
- `other_rates`: under one whose throttle rules have other rates, so that buckets are worked out first.

Each checks itself: `differences` under the recorded sets must be 0, or it ends with an error.
The peer reads the same decisions from the log, in one process, and does nothing with them.

    python benchmarks/governance_backtest.py [--quick] [--decisions N] [--processes N]
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any
from uuid import UUID

import harness
from harness import CHECKOUT

sys.path.insert(0, str(CHECKOUT))

PEER = "the same decisions read from the log by one process"
WORKSPACE = UUID("018f0000-0000-7000-8000-000000000001")
BEGAN = datetime(2026, 1, 5, 8, tzinfo=UTC)
DAYS = 90
A_SESSION = 16
# Sessions that are stored in one transaction when the history is built.
TOGETHER = 4
TELL_SECONDS = 15.0
TOOLS = ("calculate", "execute_python", "http_fetch", "describe_tables", "send_mail", "file_read")
AGENTS = ("assistant", "researcher", "analyst", "writer", "planner")
MODELS = ("local-small", "vendor-large")
LABELS = ("untrusted", "pii", "internal", "draft")

# What rules of each kind ask, the n-th of its sort; `{n}` is changed in stricter sets.
CONDITIONS: dict[str, tuple[str, ...]] = {
    "tool_call": (
        '"label-{n}" in labels',
        'cost.micros > {n}000 && !("admin" in roles)',
        'args.?path.orValue("").startsWith("/secret/{n}/")',
        'tool.safety == "restricted" && counters.repeats > {n}',
        'agent == "agent-{n}"',
        'string(args.?url.orValue("")).contains("host-{n}.example")',
        "budget.left_percent < 5 && cost.tokens > {n}00",
        'args.?code.orValue("").contains("import lib{n}")',
    ),
    "model_call": (
        "args.prompt_tokens > {n}000",
        'model.name == "vendor-{n}"',
        '"label-{n}" in labels && model.name.startsWith("vendor")',
        "budget.left_percent < 2 && cost.tokens > {n}000",
        'agent == "agent-{n}"',
    ),
    "retrieval": (
        '"label-{n}" in labels',
        'string(args.?query.orValue("")).contains("project-{n}")',
        '!("reviewer" in roles) && "label-{n}" in actor_labels',
    ),
    "message_out": ('args.?text.orValue("").contains("code-{n}")', '"label-{n}" in labels'),
    "plan": ("args.tasks > {n}0", 'agent == "agent-{n}"'),
}
# How many of the 100 rules are about each kind, beside five defaults.
RULES = {"tool_call": 44, "model_call": 24, "retrieval": 13, "message_out": 8, "plan": 6}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="20,000 decisions")
    parser.add_argument("--decisions", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--processes", type=int, default=0, metavar="N", help="default: as many as cores")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        what, many, seed = options.child
        {"build": build, "measure": measure}[what](int(many), int(seed))
        return
    decisions = 20_000 if options.quick else options.decisions
    builders = min(os.cpu_count() or 1, 4)
    with harness.installation(shared_buffers="512MB", max_wal_size="4GB") as environ:
        many = {**environ, "CARTRITA_BACKTEST_PROCESSES": str(options.processes)}
        began = time.perf_counter()
        sessions = -(-decisions // A_SESSION)
        shares = [sessions // builders + (n < sessions % builders) for n in range(builders)]
        # What is built can be built again: no commit waits for the disk.
        quickly = {**many, "PGOPTIONS": "-c synchronous_commit=off"}
        children = [child(quickly, "build", share, seed) for seed, share in enumerate(shares)]
        if any(one.wait() for one in children):
            sys.exit("The history could not be built.")
        print(json.dumps({"name": "governance_backtest.built", "ours": round(time.perf_counter() - began, 1),
                          "unit": "s", "decisions": sessions * A_SESSION}), flush=True)  # fmt: skip
        if child(many, "measure", decisions, 0).wait():
            sys.exit(1)


def child(environ: Any, what: str, many: int, seed: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, __file__, "--child", what, str(many), str(seed)], env=dict(environ)
    )


# The sets


def rule_set(*, changed: int = 0, faster: bool = False) -> str:
    """Return 100 rules; `changed` of them ask something else, `faster` throttles let more through."""
    rules: list[dict[str, Any]] = []
    for kind, many in RULES.items():
        for n in range(many):
            condition = CONDITIONS[kind][n % len(CONDITIONS[kind])]
            if len(rules) < changed:
                # Stricter: what held for many numbers holds for one that occurs.
                condition = condition.replace("{n}", str(n % 4))
            match: dict[str, Any] = {"kinds": [kind]}
            if kind == "tool_call" and n % 3 == 0:
                match["tools"] = [TOOLS[n % len(TOOLS)]]
            outcome = "escalate" if n % 11 == 5 else "audit" if n % 7 == 3 else "deny"
            rule = {"name": f"{kind.replace('_', '-')}-{n}", "sentence": "No.", "match": match}
            rules.append({**rule, "condition": condition.replace("{n}", str(n + 30)), "outcome": outcome})
    rate = {"rate": "900/minute" if faster else "600/minute"}
    throttle = {"name": "fetch-slowly", "sentence": "Slowly.", "priority": 9500, "outcome": "throttle"}
    match = {"kinds": ["tool_call"], "tools": ["http_fetch"]}
    rules.append({**throttle, "match": match, "condition": "true", "parameters": rate})
    for kind in RULES:
        default = {"name": f"default-{kind.replace('_', '-')}", "sentence": "Yes.", "priority": 9000}
        rules.append({**default, "match": {"kinds": [kind]}, "outcome": "allow"})
    return json.dumps({"environment": 2, "policy": "bench", "rules": rules[-100:]}, separators=(",", ":"))


# The history


def build(sessions: int, seed: int) -> None:
    """Record the decisions of some sessions through the event store, sixteen to a session."""
    import django

    django.setup()
    from django.db import transaction

    from cartrita.eventstore import Append, Context, append, create_data_key, new_id, put_blob
    from governance.decide import decide
    from governance.decision import ActSettled
    from governance.doors import decision_made
    from governance.policy import load_policy

    chance = random.Random(seed)
    policy = load_policy(rule_set())
    put_blob(policy.text.encode(), key_id=None)
    users = [new_id() for _ in range(20)]
    told = began = time.perf_counter()
    for first in range(0, sessions, TOGETHER):
        at = BEGAN + timedelta(days=DAYS) * (first / sessions)
        with transaction.atomic():
            appends = []
            for _ in range(min(TOGETHER, sessions - first)):
                user_id, session_id = chance.choice(users), new_id()
                key_id = create_data_key(subject_id=user_id, scope="session")
                place = Context(
                    workspace_id=WORKSPACE, session_id=session_id, key_id=key_id, actor=f"user:{user_id}"
                )
                for request in requests(chance, session_id, user_id, at):
                    verdict = decide(request, policy)
                    event: Any = decision_made(request, verdict, place, requester_id=user_id)
                    events = [event]
                    if verdict.allowed:
                        cost = request.cost
                        spent = ActSettled(
                            outcome="succeeded",
                            cost_micros=cost.micros // 2,
                            currency="USD",
                            tokens=cost.tokens // 2,
                        )
                        events.append(spent)
                    appends.append(Append(new_id(), 0, events, place))
            append(*appends, recorded_at=at)
        if time.perf_counter() - told > TELL_SECONDS:
            told = time.perf_counter()
            tell(f"building.{seed}", first * A_SESSION, sessions * A_SESSION, told - began)


def tell(what: str, decisions: int, total: int, seconds: float) -> None:
    """Print how far something is, and the most memory that this process has had."""
    line = {
        "name": f"governance_backtest.progress.{what}",
        "decisions": decisions,
        "of": total,
        "seconds": round(seconds, 1),
        "peak_memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "load": round(os.getloadavg()[0], 2),
    }
    print(json.dumps(line), flush=True)


def requests(chance: random.Random, session_id: UUID, user_id: UUID, at: datetime) -> Iterator[Any]:
    """Yield the requests of a session, as steps complete them."""
    from governance.decide import BudgetFact, Cost, Counters, DecisionRequest, tightest

    labels: set[str] = set()
    kinds = ["plan", *("model_call", "tool_call", "model_call", "retrieval", "tool_call") * 3]
    kinds[-1] = "message_out"
    agent = chance.choice(AGENTS)
    roles = frozenset(chance.choice((["member"], ["member", "reviewer"], ["member", "admin"])))
    for number, kind in enumerate(kinds):
        if chance.random() < 0.1:
            labels.add(
                chance.choice(LABELS) if chance.random() < 0.9 else f"label-{chance.randrange(30, 60)}"
            )
        tool, model, arguments, cost = "", "", {}, Cost()
        match kind:
            case "plan":
                arguments = {"planner": "rules", "tasks": chance.randrange(1, 9), "estimated_tokens": 4000}
            case "model_call":
                model = chance.choice(MODELS)
                texts = chance.choices((1, 3, 12), (60, 30, 10))[0]
                messages = [
                    {"role": ("user", "assistant")[n % 2], "content": words(chance, 600)}
                    for n in range(texts)
                ]
                prompt = 150 * texts
                arguments = {"messages": messages, "prompt_tokens": prompt, "max_output_tokens": 800}
                cost = Cost(tokens=prompt + 800, micros=3 * prompt)
            case "tool_call":
                tool = chance.choice(TOOLS)
                arguments = {
                    "path": f"/public/{chance.randrange(100)}", "url": f"https://host-{chance.randrange(90)}.example/",
                    "code": words(chance, 200),
                }  # fmt: skip
                cost = Cost(tokens=20)
            case "retrieval":
                tool = "search_documents"
                arguments = {"query": words(chance, 80), "k": 10}
            case _:
                arguments = {"to": "user", "mode": "live", "text": words(chance, 1500)}
        used = chance.randrange(400_000)
        budgets = tuple(
            BudgetFact(
                id=UUID(int=WORKSPACE.int + n), name=name, scope_kind=name, scope=str(scope),
                period_start=BEGAN, limit_tokens=1_000_000, used_tokens=used,
            )
            for n, (name, scope) in enumerate((("workspace", WORKSPACE), ("session", session_id)), start=1)
        )  # fmt: skip
        yield DecisionRequest(
            subject_kind=kind,
            workspace_id=WORKSPACE,
            session_id=session_id,
            at=at + timedelta(seconds=2 * number),
            actor=f"user:{user_id}",
            agent=agent,
            roles=roles,
            task_path=(str(session_id),),
            model=model,
            tool=tool,
            arguments=arguments,
            definition_hash="0" * 64 if tool else "",
            safety_level=("restricted" if tool == "execute_python" else "safe") if tool else "",
            labels=frozenset(labels),
            actor_labels=frozenset(labels),
            cost=cost,
            budget=tightest(budgets),
            budgets=budgets,
            counters=Counters(calls_last_minute=number // 3, repeats=0),
            throttles={"fetch-slowly": 600_000} if tool == "http_fetch" else {},
        )


@cache
def written() -> str:
    """Return many words, of which texts are pieces: making each one anew would take most of the time."""
    chance = random.Random(0)
    return " ".join(f"w{chance.randrange(5000)}" for _ in range(100_000))


def words(chance: random.Random, characters: int) -> str:
    start = chance.randrange(len(written()) - characters)
    return written()[start : start + chance.randrange(characters // 2, characters)].strip()


# The measurement


def measure(decisions: int, _: int) -> None:
    import asyncio

    import django

    django.setup()
    from django.db import connection

    from cartrita.eventstore import Sequencer, close_async
    from governance.backtest import history, runner
    from governance.policy import load_policy

    async def order() -> None:
        await Sequencer().order()
        await close_async()

    ordering = time.perf_counter()
    asyncio.run(order())
    tell("ordered", decisions, decisions, time.perf_counter() - ordering)
    with harness_owner() as owner:
        owner.execute("vacuum analyze")
    tested = {
        "same_rules": rule_set(),
        "other_rules": rule_set(changed=12),
        "all_other": rule_set(changed=100),
        "other_rates": rule_set(faster=True),
    }
    from cartrita.eventstore.log import head

    span = history.Span(workspace_id=WORKSPACE, up_to=head())
    reading = time.perf_counter()
    with history.own_connection() as own:
        for rows in history.in_sessions(own, span):
            for place in range(0, len(rows), history.BATCH):
                history.read(b"".join(one for _, one in rows[place : place + history.BATCH]))
    reading = time.perf_counter() - reading
    for name, text in tested.items():
        policy = load_policy(text)
        before = cpu_seconds()
        report = decided_again(policy)
        cpu = cpu_seconds() - before
        seconds = report["milliseconds"] / 1000
        looked_at = report["decisions"]["looked_at"]
        if looked_at < decisions:
            sys.exit(f"{name}: only {looked_at} decisions were looked at")
        if report["self_check"]["differences"] or report["decisions"]["not_redecidable"]:
            sys.exit(f"{name}: {json.dumps(report['self_check'])} {json.dumps(report['decisions'])}")
        if name == "same_rules" and report["changed"]:
            sys.exit(f"{name}: {report['matrix']}")
        full = f"governance_backtest.{name}"
        harness.report(f"{full}.seconds", [seconds], [reading], "s", PEER)
        harness.report(
            f"{full}.decisions_a_second", [looked_at / seconds], [looked_at / reading], "1/s", PEER
        )
        harness.report(f"{full}.cpu", [1e6 * cpu / looked_at], None, "us a decision, without PostgreSQL")
        harness.report(f"{full}.peak_memory", [report["peak_memory_bytes"] / 2**20], None, "MiB")
        shown = {"decisions": looked_at, "processes": runner.processes(), "differences": 0}
        sessions = report["sessions"]["changed"]
        print(json.dumps({"name": full, **shown, "changed": report["changed"], "sessions_changed": sessions}))
    connection.close()


def decided_again(policy: Any) -> dict[str, Any]:
    """Ask for a back-test and carry it out; return its report."""
    from cartrita.accounts.queries import Caller
    from governance.backtest import runner
    from governance.commands.backtests import request_back_test
    from governance.models import BackTest
    from governance.queries.backtests import report

    caller = Caller(
        user_id=WORKSPACE,
        workspace_id=WORKSPACE,
        roles=frozenset({"admin"}),
        scopes=frozenset(),
        actor="system",
    )
    back_test_id, _ = request_back_test(workspace_id=WORKSPACE, caller=caller, text=policy.text)
    with followed(back_test_id):
        runner.run_next(threading.Event())
    row = BackTest.objects.get(id=back_test_id)
    if row.status != "completed":
        sys.exit(f"{row.status}: {row.message}")
    return report(row)


@contextmanager
def followed(back_test_id: UUID) -> Iterator[None]:
    """Print how far a back-test is while it is carried out in the block."""
    from django.db import connection

    from governance.models import BackTestProgress

    over, began = threading.Event(), time.perf_counter()

    def follow() -> None:
        while not over.wait(TELL_SECONDS):
            shown = BackTestProgress.objects.filter(back_test_id=back_test_id).first()
            if shown is not None:
                tell(shown.phase, shown.decisions, shown.total, time.perf_counter() - began)
        connection.close()

    follower = threading.Thread(target=follow)
    follower.start()
    try:
        yield
    finally:
        over.set()
        follower.join()


def cpu_seconds() -> float:
    """Return the processor time of this process and of those that it waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def harness_owner() -> Any:
    import psycopg

    return psycopg.connect(os.environ["DATABASE_OWNER_URL"], autocommit=True)


if __name__ == "__main__":
    main()
