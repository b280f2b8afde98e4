"""How many labelled requests reach the right agent, and how long the choice takes.

Reads tests/data/routing.jsonl. Agents' cues and examples are tuned on its `tune` half alone; the other half,
`test`, is only measured. The hash of a request's text decides which half it is in, but for requests that were
looked at before they joined (`seen`): they are in the first. Prints one JSON object a line for each half:
accuracy, how many the general agent took for want of a clear lead, milliseconds of a choice with the vector
at hand and with making it, and the confusions. With --wrong it lists what of the tune half goes wrong.

    python benchmarks/routing.py [--wrong]
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections import Counter
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CHECKOUT))
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cartrita.settings")

import django  # noqa: E402

django.setup()

from cartrita.orchestrator import router  # noqa: E402
from cartrita.orchestrator.agents import all_agents  # noqa: E402
from retrieval.embedding import encoder  # noqa: E402
from tests.orchestrator.routing_cases import HALVES, Case, read_cases  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wrong", action="store_true", help="list what of the tune half goes wrong")
    options = parser.parse_args()
    embed = encoder().encode
    agents = all_agents()
    likeness = router.prepare(agents, embed)
    cases = read_cases()
    for half in HALVES:
        chosen = [case for case in cases if case.half == half]
        deciding, embedding = [], []
        confusions: Counter[str] = Counter()
        unclear = 0
        right = 0
        for case in chosen:
            begun = time.perf_counter()
            vector = embed([router.subject(case.text)])[0]
            embedded = time.perf_counter()
            routing = router.choose(case.text, vector, likeness, agents=agents, attachments=case.attachments)
            ended = time.perf_counter()
            embedding.append(embedded - begun)
            deciding.append(ended - embedded)
            unclear += not routing.clear
            if routing.agent == case.agent:
                right += 1
                continue
            confusions[f"{case.agent} -> {routing.agent}"] += 1
            if options.wrong and half == "tune":
                show(case, routing)
        print(
            json.dumps(
                {
                    "name": f"routing_{half}",
                    "requests": len(chosen),
                    "right": right,
                    "accuracy": round(right / len(chosen), 4),
                    "unclear": unclear,
                    "choice_ms": milliseconds(deciding),
                    "with_vector_ms": milliseconds(
                        [one + other for one, other in zip(deciding, embedding, strict=True)]
                    ),
                    "confusions": dict(confusions.most_common()),
                    "load": round(os.getloadavg()[0], 2),
                }
            )
        )


def show(case: Case, routing: router.Routing) -> None:
    leading = ", ".join(f"{name} {score:.2f}" for name, score in list(routing.scores.items())[:3])
    print(f"{case.agent:18} {case.text[:90]!r} {sorted(case.attachments)}\n    {leading} {routing.cues}")


def milliseconds(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {
        "p50": round(statistics.median(ordered) * 1000, 3),
        "p99": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] * 1000, 3),
    }


if __name__ == "__main__":
    main()
