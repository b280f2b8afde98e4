"""Schemathesis on the real application: every operation of the OpenAPI schema, as one caller."""

import re
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import schemathesis
from django.core.servers.basehttp import WSGIRequestHandler, WSGIServer
from django.core.wsgi import get_wsgi_application
from django.db import connections
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema

from cartrita.errors import BadInput
from cartrita.eventstore import canonical_json
from cartrita.http.conditional import TAG_PATTERN

SEED = 20_260_301
PATIENCE_SECONDS = 120
PHASES = ("examples", "coverage", "fuzzing", "stateful")

# What may become of input that fits the schema: 412 for an old version, 422 for a key of another request.
_ACCEPTED = ("2xx", "3xx", "401", "403", "404", "409", "412", "422", "429", "503")
# What a schema cannot say of an input, which is answered 400 (or as said) all the same.
_BEYOND_SCHEMAS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "PUT /api/v2/policies/rules/{name}": ("conditions are CEL", ("400",)),
    "POST /api/v2/policies/import": ("the text is a policy file", ("400",)),
    "GET /api/v2/events": ("names of event types", ("400",)),
    "GET /api/v2/sessions/{session_id}/events": ("names of event types", ("400",)),
    "GET /api/v2/policies/hits": ("a time of the last 366 days", ("400",)),
    "POST /api/v2/policies/try": ("the text is a policy file", ("400",)),
    "POST /api/v2/budgets": ("ids of people and budgets, time zones, limits of a parent", ("400",)),
    "POST /api/v2/budgets/{budget_id}/raise": ("higher than before", ("400",)),
    "POST /api/v2/documents": ("what the file holds", ("400", "413", "415")),
    "GET /api/v2/documents/{document_id}/text": ("within the text", ("400",)),
    "POST /api/v2/tokens": ("the time of the end, scopes that the person may grant", ("400",)),
    "POST /api/v2/sessions/{session_id}/messages": ("bytes of the text and of its metadata", ("400", "413")),
    "POST /api/v2/backtests": ("a policy file or a hash, not both, and which times", ("400",)),
    "GET /api/v2/policies/coverage": ("a range of at most 366 days", ("400",)),
    "GET /api/v2/policies/shadow-report": ("a time of the last 366 days", ("400",)),
    "GET /api/v2/budgets/{budget_id}/spending": ("a period that there may be", ("400",)),
    "POST /api/v2/break-glass": ("the scope of its kind, a reason in plain text", ("400",)),
    "POST /api/v2/break-glass/{glass_id}/end": ("a note in plain text", ("400",)),
    "POST /api/v2/break-glass/{glass_id}/review": ("a note in plain text", ("400",)),
    "PATCH /api/v2/workspace": ("names of time zones, codes of currencies", ("400",)),
    "POST /api/v2/teams": ("a name that can be printed", ("400",)),
    "PATCH /api/v2/teams/{team_id}": ("a name that can be printed", ("400",)),
    "GET /api/v2/decisions/{decision_id}/again": ("what is erased cannot be decided again", ("400",)),
    "POST /api/v2/approvals/{approval_id}/approve": ("patterns, until when", ("400",)),
    "POST /api/v2/approvals/{approval_id}/edit": ("the tool's own parameters", ("400",)),
}


@dataclass(slots=True)
class Explored:
    """What was sent, and what was found: each once, by operation and what is wrong.

    `requests` are counted by phase, `checks` are those of all answers.
    """

    operations: int = 0
    requests: Counter[str] = field(default_factory=Counter)
    checks: int = 0
    found: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return the counts in words."""
        phases = ", ".join(f"{number} {phase}" for phase, number in self.requests.items())
        sent = f"{self.requests.total()} requests ({phases})"
        return f"{self.operations} operations, {sent}, {self.checks} checks, {len(self.found)} findings"


def explore(
    secret: str | None, *, things: Mapping[str, Any], examples: int, phases: tuple[str, ...]
) -> Explored:
    """Send requests with this token (None: without) in all `phases` and return what every check found."""
    config = SchemathesisConfig.from_dict(
        {
            "seed": SEED,
            "continue-on-failure": True,
            "workers": 1,
            # What is looked for are wrong answers, not how busy the machine is.
            "request-timeout": PATIENCE_SECONDS,
            "headers": {"Authorization": f"Bearer {secret}"} if secret else {},
            "generation": {"max-examples": examples, "database": "none", "no-shrink": True},
            "phases": {name: {"enabled": name in phases} for name in PHASES},
            "cache": {"enabled": False},
            # Nothing is secret here, and what was sent must be seen to be sent again.
            "output": {"sanitization": {"enabled": False}},
            "checks": {"positive_data_acceptance": {"expected-statuses": list(_ACCEPTED)}},
            "operations": [
                {
                    "include-name": name,
                    "checks": {"positive_data_acceptance": {"expected-statuses": [*_ACCEPTED, *more]}},
                }
                for name, (_, more) in _BEYOND_SCHEMAS.items()
            ],
        }
    )
    explored = Explored()
    with served() as address:
        schema = schemathesis.openapi.from_url(
            f"{address}/api/schema",
            config=config,
            headers={"Accept": "application/json"},
            timeout=PATIENCE_SECONDS,
        )
        name_things(schema.raw_schema, things)
        # It goes on for ever; tests/streaming follows it.
        bounded = schema.exclude(operation_id="session_stream")
        explored.operations = bounded.statistic.operations.selected
        for event in from_schema(bounded).execute():
            match event:
                case events.ScenarioFinished():
                    _take(event, explored)
                case events.NonFatalError():
                    explored.found[f"{event.label}: {event.info}"] = str(event.value)
                case events.FatalError():
                    raise event.exception
    return explored


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Print nothing."""


class _OneDatabaseConnection(WSGIServer):
    def serve_forever(self, poll_interval: float = 0.05) -> None:
        """Serve, one request after the other, until the end."""
        try:
            super().serve_forever(poll_interval)
        finally:
            connections.close_all()


@contextmanager
def served() -> Iterator[str]:
    """Serve the application on a loopback port, in a thread with its own connection to the database."""
    server = _OneDatabaseConnection(("127.0.0.1", 0), _Quiet)
    server.set_app(get_wsgi_application())
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def name_things(schema: Mapping[str, Any], things: Mapping[str, Any]) -> None:
    """Let the schema give what exists as examples of ids, but where it would be deleted first of all."""
    for operations in schema["paths"].values():
        for method, operation in operations.items():
            for parameter in operation.get("parameters", ()) if method != "delete" else ():
                if parameter["name"] in things and parameter["in"] in {"path", "query"}:
                    parameter["example"] = str(things[parameter["name"]])


def _take(event: events.ScenarioFinished, explored: Explored) -> None:
    recorder = event.recorder
    explored.requests[event.phase.value] += len(recorder.interactions)
    for case_id, nodes in recorder.checks.items():
        beyond = _beyond_schemas(recorder.cases[case_id].value) if case_id in recorder.cases else ""
        explored.checks += len(nodes)
        for node in nodes:
            if node.failure_info is None:
                continue
            failure = node.failure_info.failure
            if beyond and node.name == "positive_data_acceptance":
                continue
            interaction = recorder.interactions.get(case_id)
            answer = interaction.response if interaction else None
            first = failure.message.partition("\n")[0][:120]
            key = f"{failure.operation}: {node.name}: {failure.title}: {first}"
            said = answer.text[:300] if answer is not None else ""
            status = answer.status_code if answer is not None else ""
            explored.found.setdefault(
                key, f"{failure.message[:600]}\n{node.failure_info.code_sample}\n{status} {said}"
            )


def _beyond_schemas(case: schemathesis.Case[Any]) -> str:
    """Return why a request need not be accepted although it passes for one that fits the schema."""
    if "cursor" in case.query:
        return "a cursor is what the page before gave"
    tag = str(case.headers.get("If-Match", "*"))
    if re.fullmatch(TAG_PATTERN, tag) is None:
        return "the quotation marks of entity tags get lost where one is made of the pattern"
    if isinstance(case.body, dict):
        try:
            canonical_json(case.body)
        except BadInput:
            return "JSON that cannot be kept exactly (RFC 7493) is refused wherever it stands in a body"
    return ""
