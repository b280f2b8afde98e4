"""`manage.py ask`: one question, one answer, from a terminal."""

import argparse
import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError, CommandParser

from cartrita.errors import BadInput, CartritaError, Conflict, NotAllowed, NotFound, TooLarge
from cartrita.orchestrator.asking import Question, WaitsForApproval, ask
from governance.refusals import DeniedByPolicy

ANSWERED, BAD_INPUT, DENIED, WAITING, FAILED = 0, 2, 3, 4, 5
EXIT_CODES = {"answered": ANSWERED, "denied": DENIED, "failed": FAILED, "stopped": FAILED}
ENDED = {
    "denied": "The rules of this workspace, or a reviewer, did not allow it.",
    "failed": "There is no answer.",
    "stopped": "The answer was stopped.",
}

PHASES = {
    "tasks_app.PlanProposed": "planning",
    "tasks_app.ActDecided": "working",
    "retrieval.RetrievalPerformed": "found passages",
    "llm.ModelAnswered": "answered by the model",
}


# Before the point in an event's type name; other phases are told in words.
EVENT_OWNERS = frozenset({"tasks_app", "sessions_app", "governance", "retrieval", "llm", "tools"})


class Command(BaseCommand):
    help = (
        "Ask a question and print the answer. Exit code 0: answered, 2: bad input, 3: denied by policy, "
        "4: waiting for an approval, 5: failed; the reason is on standard error."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("question", help="what to ask")
        parser.add_argument(
            "--document",
            action="append",
            default=[],
            type=Path,
            metavar="FILE",
            help="attach FILE (repeatable)",
        )
        parser.add_argument("--session", type=_uuid, metavar="ID", help="go on with this session")
        parser.add_argument(
            "--user", metavar="EMAIL", help="ask as this person (default: the first administrator)"
        )
        parser.add_argument("--agent", metavar="NAME", help="the agent that answers")
        parser.add_argument("--model", metavar="NAME", help="the model that answers")
        parser.add_argument(
            "--timeout", type=_seconds, default=600.0, metavar="SECONDS", help="give up waiting after so long"
        )
        parser.add_argument(
            "--no-wait",
            dest="wait",
            action="store_false",
            help="end with exit code 4 where an approval is needed; the reply comes to the session later",
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object instead of the text")

    def handle(self, *_args: Any, **options: Any) -> None:
        as_json: bool = options["json"]
        question = Question(
            text=options["question"],
            documents=options["document"],
            session_id=options["session"],
            user=options["user"],
            agent=options["agent"],
            model=options["model"],
            seconds=options["timeout"],
            wait=options["wait"],
        )
        try:
            reply = asyncio.run(
                ask(
                    question,
                    on_text=self._shows_text(as_json),
                    on_phase=self._show_phase,
                    on_wait=self._show_wait,
                )
            )
        except WaitsForApproval as error:
            raise CommandError(error.message, returncode=WAITING) from None
        except DeniedByPolicy as error:
            raise CommandError(_sentence(error), returncode=DENIED) from None
        except (BadInput, NotFound, TooLarge, NotAllowed, Conflict) as error:
            raise CommandError(_sentence(error), returncode=BAD_INPUT) from None
        except CartritaError as error:
            raise CommandError(_sentence(error), returncode=FAILED) from None
        if as_json:
            self.stdout.write(json.dumps(reply.report, ensure_ascii=False))
        else:
            self.stdout.write("")
            self._print_sources(reply.report)
        code = EXIT_CODES[reply.outcome]
        if code != ANSWERED:
            # The reply stands on the standard output already, in the answer or the report.
            raise CommandError(ENDED[reply.outcome], returncode=code)

    def _shows_text(self, as_json: bool) -> Any:
        def show(text: str) -> None:
            if not as_json:
                self.stdout.write(text, ending="")
                self.stdout.flush()

        return show

    def _show_phase(self, name: str) -> None:
        phase = PHASES.get(name, "" if name.partition(".")[0] in EVENT_OWNERS else name)
        if phase and sys.stderr.isatty():
            self.stderr.write(f"… {phase}", self.style.NOTICE)

    def _show_wait(self, what: str) -> None:
        # Also where nobody looks on: else a script would hang without a word.
        self.stderr.write(f"… {what}", self.style.NOTICE)

    def _print_sources(self, report: Mapping[str, Any]) -> None:
        for number, citation in enumerate(report["citations"], 1):
            self.stdout.write(f"[{number}] {citation['title']}, {citation['start']}-{citation['end']}")


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no session id; it looks like a UUID") from None


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return seconds


def _sentence(error: CartritaError) -> str:
    return f"{error.message} ({error.code})"
