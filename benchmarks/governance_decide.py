"""How long a decision takes in memory with 1 to 1,000 rules, beside two other engines, in one run.

Prints one JSON object a line: name, ours, peer, ratio (ours / peer), unit, runs, load (of one minute) and
what the peer is. Every figure is the median of its runs; ours and the peers take turns. All get the same
rules, compiled or parsed before the clock starts, and the same requests, on which they must agree:

- `all_apply`: every rule is about the act, so every condition is evaluated;
- `tenth_applies`: nine of ten rules are about other tools;
- `with_request`: ours also builds the request from the caller's facts, as the peers do from their dict.

Peers are Cedar (cedarpy), and PolicyEvaluator of agent-governance-toolkit-core (`vs_agt`). A rule of the
latter is one comparison, so it gets the first half of conditions that have two, and no `tenth_applies`, which
takes a tool and a condition; the requests are such that it must answer alike all the same.

Peers run in the environment of .venv-bench (or CARTRITA_BENCH_PYTHON); without it, they are null.

    python benchmarks/governance_decide.py [--quick]
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import harness
from harness import CHECKOUT, PEERS

sys.path.insert(0, str(CHECKOUT))

from governance.decide import Cost, Counters, DecisionRequest, decide
from governance.policy import load_policy

CEDAR = "cedarpy, policies and entities parsed before"
SIZES = (1, 10, 100, 1000)
WORKSPACE = UUID("018f0000-0000-7000-8000-000000000001")
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)

AGT = "agent-governance-toolkit-core, PolicyEvaluator"
# A rule in the three languages: the n-th of its sort.
CONDITIONS: tuple[tuple[str, str, tuple[str, str, str]], ...] = (
    ('"label-{n}" in labels', 'context.labels.contains("label-{n}")', ("labels", "contains", '"label-{n}"')),
    (
        'cost.micros > {n}000 && !("admin" in roles)',
        'context.cost_micros > {n}000 && !context.roles.contains("admin")',
        ("cost_micros", "gt", "{n}000"),
    ),
    (
        'args.?path.orValue("").startsWith("/secret/{n}/")',
        'context.args has path && context.args.path like "/secret/{n}/*"',
        ("path", "matches", '"^/secret/{n}/"'),
    ),
    (
        'tool.safety == "restricted" && counters.repeats > {n}',
        'context.safety == "restricted" && context.repeats > {n}',
        ("repeats", "gt", "{n}"),
    ),
    ('agent == "agent-{n}"', 'context.agent == "agent-{n}"', ("agent", "eq", '"agent-{n}"')),
)
# What the requests differ in; the last ones are denied by some rule where there are enough of them.
REQUESTS: tuple[dict[str, Any], ...] = (
    {},
    {"labels": ["untrusted"], "args": {"path": "/public/a", "lines": 40}},
    {"labels": ["untrusted", "label-5"]},
    {"args": {"path": "/secret/7/key"}},
    {"agent": "agent-9"},
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="one short run of each")
    quick = parser.parse_args().quick
    runs, times = (1, 200) if quick else (5, 2000)
    for name, share in (("all_apply", 1), ("tenth_applies", 10)):
        for size in SIZES:
            compare(f"governance.decide.{name}.{size}_rule{'s' * (size > 1)}", size, share, runs, times)


def compare(name: str, size: int, share: int, runs: int, times: int) -> None:
    """Measure one size, ours and the peer in turns, and print its figures."""
    written = json.dumps(
        {"environment": 3, "policy": "bench", "rules": rules(size, share)}, separators=(",", ":")
    )
    began = time.perf_counter()
    policy = load_policy(written)
    loading = [(time.perf_counter() - began) * 1e3]
    requests = [request(**one) for one in REQUESTS]
    ours: dict[str, list[float]] = {"p50": [], "with_request.p50": []}
    known = {"cedarpy": (CEDAR, cedar_asked(size, share)), "agt": (AGT, agt_asked(size, share))}
    peers: dict[str, dict[str, list[float]]] = {peer: {"p50": [], "load": []} for peer in known}
    allowed = [decide(one, policy).allowed for one in requests]
    for _ in range(runs):
        ours["p50"].append(measure([lambda one=one: decide(one, policy) for one in requests], times))
        whole = measure([lambda one=one: decide(request(**one), policy) for one in REQUESTS], times)
        ours["with_request.p50"].append(whole)
        for peer, (_is, asked) in known.items():
            answer = ask(peer, asked, times)
            if answer is None:
                continue
            if answer["allowed"] != allowed:
                sys.exit(f"{name}: Cartrita says {allowed}, {peer} {answer['allowed']}")
            for figure in peers[peer]:
                peers[peer][figure].append(answer[figure])
    for peer, (what, _asked) in known.items():
        found, suffix = peers[peer], "" if peer == "cedarpy" else f".vs_{peer}"
        if suffix and not found["p50"]:
            continue
        report(f"{name}.p50{suffix}", ours["p50"], found["p50"], "us", what)
        report(f"{name}.with_request.p50{suffix}", ours["with_request.p50"], found["p50"], "us", what)
        if share == 1 and size == SIZES[-1]:
            report(f"governance.load.{size}_rules{suffix}", loading, found["load"], "ms", what)


def rules(size: int, share: int) -> list[dict[str, Any]]:
    """Return `size` rules as Cartrita writes them: the last allows, the others deny."""
    written: list[dict[str, Any]] = []
    for n in range(size - 1):
        match: dict[str, Any] = {"kinds": ["tool_call"]}
        if n % share:
            match["tools"] = [f"tool_{n % share}"]
        condition = CONDITIONS[n % len(CONDITIONS)][0].replace("{n}", str(n + 1))
        written.append(
            {"name": f"r{n}", "sentence": "No.", "match": match, "condition": condition, "outcome": "deny"}
        )
    default = {"name": "default", "sentence": "Yes.", "priority": 9000, "match": {"kinds": ["tool_call"]}}
    return [*written, {**default, "outcome": "allow"}]


def cedar_rules(size: int, share: int) -> str:
    """Return the same rules as Cedar writes them."""
    written = []
    for n in range(size - 1):
        tool = f' == Tool::"tool_{n % share}"' if n % share else ""
        condition = CONDITIONS[n % len(CONDITIONS)][1].replace("{n}", str(n + 1))
        written.append(
            f'forbid(principal, action == Action::"tool_call", resource{tool}) when {{ {condition} }};'
        )
    return "\n".join([*written, 'permit(principal, action == Action::"tool_call", resource);'])


def request(
    *, labels: list[str] | None = None, args: dict[str, Any] | None = None, agent: str = "generalist"
) -> DecisionRequest:
    return DecisionRequest(
        subject_kind="tool_call",
        workspace_id=WORKSPACE,
        session_id=WORKSPACE,
        at=NOON,
        actor="user:1",
        agent=agent,
        roles=frozenset({"member"}),
        tool="file_read",
        safety_level="safe",
        arguments=args or {"path": "/public/b"},
        labels=frozenset(labels or ()),
        cost=Cost(tokens=10, micros=900),
        counters=Counters(repeats=1),
    )


def cedar_request(
    *, labels: list[str] | None = None, args: dict[str, Any] | None = None, agent: str = "generalist"
) -> dict[str, Any]:
    return {
        "principal": 'User::"1"',
        "action": 'Action::"tool_call"',
        "resource": 'Tool::"file_read"',
        "context": {
            "agent": agent,
            "roles": ["member"],
            "safety": "safe",
            "args": args or {"path": "/public/b"},
            "labels": labels or [],
            "cost_micros": 900,
            "repeats": 1,
        },
    }


def cedar_asked(size: int, share: int) -> dict[str, Any]:
    return {"policies": cedar_rules(size, share), "requests": [cedar_request(**one) for one in REQUESTS]}


def agt_asked(size: int, share: int) -> dict[str, Any] | None:
    """Return the rules as the toolkit writes them, each one comparison; None where that does not say them."""
    if share != 1:
        return None
    written = []
    for n in range(size - 1):
        field, operator, value = CONDITIONS[n % len(CONDITIONS)][2]
        condition = {
            "field": field,
            "operator": operator,
            "value": json.loads(value.replace("{n}", str(n + 1))),
        }
        written.append({"name": f"r{n}", "condition": condition, "action": "deny", "priority": size - n})
    return {"rules": written, "requests": [agt_request(**one) for one in REQUESTS]}


def agt_request(**given: Any) -> dict[str, Any]:
    """Return a request without levels: a rule of the toolkit reads a name of the first one."""
    context = cedar_request(**given)["context"]
    return {**context, **context.pop("args"), "tool_name": "file_read"}


def ask(peer: str, asked: dict[str, Any] | None, times: int) -> dict[str, Any] | None:
    """Let a peer decide the same requests; None where it is not installed, or cannot be asked."""
    scripts = {"cedarpy": "cedarpy_decisions.py", "agt": "agent_governance_decisions.py"}
    if asked is None or not PEERS.exists():
        return None
    done = subprocess.run(
        [PEERS, CHECKOUT / "benchmarks/peers" / scripts[peer]],
        input=json.dumps({**asked, "times": times}),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        print(f"{peer}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def measure(acts: list[Callable[[], object]], times: int) -> float:
    """Return the median of one act in microseconds, the acts in turns."""
    for act in acts:
        act()
    spent = []
    for n in range(times):
        act = acts[n % len(acts)]
        began = time.perf_counter_ns()
        act()
        spent.append(time.perf_counter_ns() - began)
    spent.sort()
    return spent[len(spent) // 2] / 1e3


def report(name: str, ours: list[float], peers: list[float], unit: str, what: str) -> None:
    harness.report(name, ours, peers or None, unit, what if peers else "")


if __name__ == "__main__":
    main()
