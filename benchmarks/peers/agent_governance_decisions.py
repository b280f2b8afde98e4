"""Decides with agent-governance-toolkit-core: reads {rules, requests, times}, prints a JSON object.

Runs in the peers' environment. What comes nearest to a decision on one act is `PolicyEvaluator.evaluate`: the
rules of a document by priority, the first that matches decides, one comparison a rule. It keeps a copy of the
context in its answer, and records nothing. p50 is microseconds of one decision, load is milliseconds.
"""

import json
import logging
import sys
import time

from agent_os.policies import PolicyDocument, PolicyEvaluator


def main() -> None:
    logging.disable(logging.CRITICAL)
    asked = json.load(sys.stdin)
    began = time.perf_counter()
    document = PolicyDocument.model_validate(
        {"name": "bench", "rules": asked["rules"], "defaults": {"action": "allow"}}
    )
    evaluator = PolicyEvaluator([document])
    load = (time.perf_counter() - began) * 1e3
    requests = asked["requests"]
    answers = [evaluator.evaluate(one) for one in requests]
    errors = [answer.reason for answer in answers if answer.audit_entry.get("error")]
    if errors:
        sys.exit(f"A rule could not be evaluated: {errors[0]}")
    spent = []
    for n in range(asked["times"]):
        one = requests[n % len(requests)]
        began_ns = time.perf_counter_ns()
        evaluator.evaluate(one)
        spent.append(time.perf_counter_ns() - began_ns)
    spent.sort()
    figures = {
        "allowed": [answer.allowed for answer in answers],
        "p50": spent[len(spent) // 2] / 1e3,
        "load": load,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
