"""What came of each example of a policy: for people, for programs, and as JUnit's XML for CI systems."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from xml.etree import ElementTree as ET

from cartrita.errors import BadInput
from governance.decide import decide
from governance.examples import request_from_names
from governance.policy import PolicyNotValid, PolicySet, Problem

# What XML 1.0 cannot hold.
_NOT_IN_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tested:
    """One example of a rule: what it expects, and what the whole set gives.

    `outcome` and `by` are empty where the example's request is none, which `problem` then says; it also says
    which conditions could not be evaluated.
    """

    rule: str
    number: int
    then: str
    then_by: str
    outcome: str
    by: str
    problem: str

    @property
    def holds(self) -> bool:
        """Whether the set gives what the example expects."""
        return (self.outcome, self.by) == (self.then, self.then_by)

    def __str__(self) -> str:
        expected = f"{self.then} by {self.then_by}"
        problem = f" ({self.problem})" if self.problem else ""
        if self.holds:
            return f"ok    {self.rule} {self.number}: {expected}{problem}"
        given = f"{self.outcome} by {self.by}" if self.outcome else "no verdict"
        return f"FAIL  {self.rule} {self.number}: expected {expected}, got {given}{problem}"


def tested(policy: PolicySet) -> list[Tested]:
    """Decide every example of every rule, in order of priority."""
    found = []
    for rule in policy.rules:
        for number, example in enumerate(rule.examples, start=1):
            outcome, by, problem = "", "", ""
            try:
                verdict = decide(request_from_names(example.given, policy), policy)
            except BadInput as error:
                problem = error.message
            else:
                outcome, by = verdict.outcome, verdict.rule
                problem = "; ".join(f"{one.rule}: {one.detail}" for one in verdict.evaluated if one.detail)
            found.append(
                Tested(
                    rule=rule.name,
                    number=number,
                    then=example.then,
                    then_by=example.by or rule.name,
                    outcome=outcome,
                    by=by,
                    problem=problem,
                )
            )
    return found


def as_json(file: str, read: PolicySet | PolicyNotValid, examples: Sequence[Tested]) -> dict[str, Any]:
    """Return what came of a policy file: `valid`, its problems, or its hash, warnings and examples."""
    if isinstance(read, PolicyNotValid):
        problems: Iterable[Problem] = read.problems
        return {"file": file, "valid": False, "problems": [asdict(one) for one in problems]}
    return {
        "file": file,
        "valid": True,
        "policy": read.name,
        "policy_hash": read.content_hash,
        "environment": read.environment,
        "rules": len(read.rules),
        "warnings": [asdict(one) for one in read.warnings],
        "examples": [{**asdict(one), "holds": one.holds} for one in examples],
        "failed": sum(not one.holds for one in examples),
    }


def as_junit(file: str, read: PolicySet | PolicyNotValid, examples: Sequence[Tested]) -> bytes:
    """Return the same as JUnit's XML: a case for each example, or one that failed for each problem."""
    cases: list[tuple[str, str, str]]
    if isinstance(read, PolicyNotValid):
        cases = [(one.rule or "policy", f"line {one.line}", str(one)) for one in read.problems]
    else:
        cases = [
            (one.rule, f"example {one.number}: {one.then} by {one.then_by}", "" if one.holds else str(one))
            for one in examples
        ]
    failed = sum(bool(message) for _, _, message in cases)
    suite = ET.Element("testsuite", name=_xml(file), tests=str(len(cases)), failures=str(failed))
    for rule, name, message in cases:
        case = ET.SubElement(suite, "testcase", classname=_xml(rule), name=_xml(name))
        if message:
            ET.SubElement(case, "failure", message=_xml(message))
    written: bytes = ET.tostring(suite, encoding="utf-8", xml_declaration=True)
    return written


def _xml(text: str) -> str:
    return _NOT_IN_XML.sub("\N{REPLACEMENT CHARACTER}", text)
