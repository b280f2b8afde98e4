"""Decides with Cedar: reads {policies, requests, times} from stdin, prints one JSON object of figures.

Runs in the peers' environment. Policies and entities are parsed once, as its documentation advises; p50 is
microseconds of one decision, load is milliseconds.
"""

import json
import sys
import time

import cedarpy


def main() -> None:
    asked = json.load(sys.stdin)
    began = time.perf_counter()
    policies = cedarpy.PolicySet.from_str(asked["policies"])
    load = (time.perf_counter() - began) * 1e3
    entities = cedarpy.Entities.from_json_str("[]")
    requests = asked["requests"]
    answers = [cedarpy.is_authorized(one, policies, entities) for one in requests]
    errors = [error for answer in answers for error in answer.diagnostics.errors]
    if errors:
        sys.exit(f"Cedar could not evaluate a rule: {errors[0]}")
    spent = []
    for n in range(asked["times"]):
        one = requests[n % len(requests)]
        began_ns = time.perf_counter_ns()
        cedarpy.is_authorized(one, policies, entities)
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
