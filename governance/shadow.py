"""What a set in shadow says of a request that the set in force decided. Pure.

It sees the same facts, as far as they are facts for it:

- A throttle rule of the set in force, in the same version, has the level of its bucket. Any other throttle
  rule of the shadow has no bucket, because nothing drains one for it: it counts as full, and slows no act.
- Leave that people gave for a rule of the set in force counts for the shadow's rule of that name, also in
  another version: had the shadow been in force, the same person would have been asked under that version. For
  a rule that the set in force lacks nobody can have given leave, and leave is looked up only where the set in
  force escalates; so such a rule escalates each time, also where an approval for a session would have covered
  later acts.
- Acts under way that this one would taint are those that the set in force allowed.
"""

from dataclasses import replace

from governance.decide import DecisionRequest, Verdict, decide
from governance.policy import PolicySet

# What stands in a decision as the shadow's rule where the shadow could not be evaluated at all.
NOT_EVALUATED = "not-evaluated"


def shadow_verdict(request: DecisionRequest, active: PolicySet, shadow: PolicySet) -> Verdict:
    """Return what `shadow` says of a request with the facts that `active` was decided on."""
    throttles, grants = request.throttles, request.grants
    if throttles:
        throttles = {
            name: level
            for name, level in throttles.items()
            if active.rule_hashes.get(name) == shadow.rule_hashes.get(name)
        }
    if grants:
        grants = tuple(
            replace(grant, rule_hash=shadow.rule_hashes.get(grant.rule, grant.rule_hash)) for grant in grants
        )
    if throttles != request.throttles or grants != request.grants:
        request = request.with_facts(throttles=throttles, grants=grants)
    return decide(request, shadow)
