"""What the chat page says by script. Braces hold what the script puts in."""

from collections.abc import Mapping

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

CHAT: "Mapping[str, Promise | Mapping[str, Promise | list[Promise]]]" = {
    "you": _("You"),
    "agent": _("Cartrita"),
    "send": _("Send"),
    "stop": _("Stop"),
    "stopping": _("Stopping"),
    "answered": _("The answer is complete."),
    "stopped": _("The answer was stopped."),
    "failed": _("There is no answer."),
    "denied": _("A rule does not allow it."),
    "expired": _("This session rested for an hour. Your next message opens it again."),
    "signed_out": _("You are signed out."),
    "sign_in": _("Sign in again"),
    "ended": _("This session can no longer be followed."),
    "damaged": _("A message arrived damaged. Load the page again to see it whole."),
    "unsent": _("Not sent: {reason}"),
    "dismiss": _("Dismiss"),
    "no_server": _("the server does not answer. Try again."),
    "unreadable_answer": _("the server failed ({status}). Try again."),
    "connection": {
        "connecting": _("Connecting"),
        "connected": _("Connected"),
        "waiting": _("Connection lost, trying again"),
        "ended": _("Disconnected"),
    },
    "documents": {
        "sending": _("sending"),
        "held": _("waiting for approval"),
        "received": _("being read"),
        "chunked": _("searchable by words"),
        "ready": _("ready"),
        "failed": _("not usable"),
    },
    "phases": {
        "sessions_app.MessagePosted": _("Received"),
        "sessions_app.TurnCancelRequested": _("Stopping"),
        "tasks_app.PlanProposed": _("Planning"),
        "tasks_app.TaskStarted": _("Working"),
        "retrieval.RetrievalPerformed": _("Reading the passages found"),
        "llm.ModelAnswered": _("Checking the answer"),
        "tools.ToolReturned": _("Working with the result"),
    },
    "acts": {
        "retrieval": _("Searching the documents"),
        "model_call": _("Thinking"),
        "message_out": _("Writing"),
        "tool_call": _("Using a tool"),
    },
    "not_allowed": _("Not allowed"),
    "waits_for": {
        "approval": _("Waiting for approval"),
        "review": _("Waiting for review"),
    },
    "slowed_down": _("Slowed down until {time}"),
    "going_on": _("Going on"),
    "glass_over": _("Break-glass is over."),
    "over": _("now"),
    "tasks": {
        "waiting": _("waiting"),
        "running": _("running: {agent}"),
        "retried": _("trying again"),
        "done": _("done"),
        "failed": _("failed: {reason}"),
        "skipped": _("skipped"),
        "stopped": _("stopped"),
    },
    "bill": {
        "tasks": [_("1 task"), _("{count} tasks")],
        "tokens": [_("about 1 token"), _("about {count} tokens")],
        "no_tokens": _("no tokens"),
        "approvals": [_("1 act to be approved"), _("{count} acts to be approved")],
        "throttles": [_("1 act to be slowed down"), _("{count} acts to be slowed down")],
        "denials": [_("1 act to be denied"), _("{count} acts to be denied")],
    },
    "why_not": _("Say why not, so that the person who asked knows."),
}

PLAN_WORDS: "dict[str, Promise]" = {
    "proposed": _("Proposed"),
    "waiting": _("Waiting"),
    "accepted": _("Running"),
    "refused": _("Refused"),
    "complete": _("Complete"),
    "failed": _("Failed"),
    "stopped": _("Stopped"),
}
