"""What is sent to an address: values for its parts and a body that would do what the address is for."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote
from uuid import UUID

from django.apps import apps
from django.core.files.uploadedfile import SimpleUploadedFile

from tests.permissions.world import WORD, World

_PART = re.compile(r"<(?:(\w+):)?(\w+)>")
_ADMIN = re.compile(r"/admin/(\w+)/(\w+)/<path:object_id>/")

JSON: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "POST /api/v2/members": lambda _: {"email": "new@example.com", "roles": ["member"]},
    "PATCH /api/v2/members/<uuid:user_id>": lambda _: {"roles": ["member", "reviewer"]},
    "POST /v1/chat/completions": lambda _: {
        "model": "no-such-model", "messages": [{"role": "user", "content": "Well?"}]
    },
    "POST /v1/responses": lambda _: {"model": "no-such-model", "input": "Well?"},
    "POST /v1/embeddings": lambda _: {"model": "no-such-model", "input": "Well?"},
    "PATCH /api/v2/workspace": lambda _: {"time_zone": "Europe/Berlin"},
    "POST /api/v2/teams": lambda it: {"name": "new team", "members": [str(it["user_id"])]},
    "PATCH /api/v2/teams/<uuid:team_id>": lambda _: {"name": "another name"},
    "POST /api/v2/tokens": lambda _: {"name": "new", "scopes": ["read"]},
    "POST /api/v2/policies/import": lambda it: {"text": it["policy_text"]},
    "POST /api/v2/policies/validate": lambda it: {"text": it["policy_text"]},
    "POST /api/v2/policies/try": lambda it: {"decision_id": str(it["decision_id"])},
    "POST /api/v2/policies/propose": lambda _: {"note": "again"},
    "POST /api/v2/policies/activate": lambda it: {"policy_hash": it["policy_hash"]},
    "POST /api/v2/policies/approve": lambda it: {"policy_hash": it["policy_hash"]},
    "POST /api/v2/policies/reject": lambda it: {"policy_hash": it["policy_hash"], "reason": "no"},
    "POST /api/v2/policies/withdraw": lambda it: {"policy_hash": it["policy_hash"]},
    "POST /api/v2/policies/shadow": lambda it: {"policy_hash": it["policy_hash"]},
    "POST /api/v2/policies/unshadow": lambda it: {"policy_hash": it["policy_hash"], "reason": "no"},
    "PUT /api/v2/policies/rules/<str:name>": lambda _: {
        "sentence": "Another sentence.",
        "match": {"kinds": ["tool_call"]},
        "outcome": "deny",
        "condition": "tool.name == 'nothing'",
    },
    "POST /api/v2/approvals/<uuid:approval_id>/approve": lambda _: {"scope": "once"},
    "POST /api/v2/approvals/<uuid:approval_id>/deny": lambda _: {"text": "no"},
    "POST /api/v2/approvals/<uuid:approval_id>/ask": lambda _: {"text": "Why?"},
    "POST /api/v2/approvals/<uuid:approval_id>/comment": lambda _: {"text": "So."},
    "POST /api/v2/approvals/<uuid:approval_id>/answer": lambda _: {"text": "Because."},
    "POST /api/v2/approvals/<uuid:approval_id>/edit": lambda _: {"arguments": {"code": "print(9)"}},
    "POST /api/v2/backtests": lambda it: {"policy_hash": it["policy_hash"]},
    "POST /api/v2/budgets": lambda it: {
        "name": "new", "scope_kind": "user", "scope": str(it["user_id"]), "period": "day", "limit_tokens": 9
    },
    "POST /api/v2/break-glass": lambda _: {"reason": "The gateway is down.", "minutes": 5},
    "POST /api/v2/break-glass/<uuid:glass_id>/end": lambda _: {"note": "It is back."},
    "POST /api/v2/break-glass/<uuid:glass_id>/review": lambda _: {"note": "Seen."},
    "POST /api/v2/budgets/<uuid:budget_id>/raise": lambda _: {"limit_tokens": 2_000_000, "reason": "more"},
    "POST /api/v2/sessions": lambda _: {},
    "PATCH /api/v2/sessions/<uuid:session_id>": lambda _: {"turnPolicy": "reject"},
    "POST /api/v2/sessions/<uuid:session_id>/messages": lambda _: {"content": "And then?"},
    "POST /api/v2/search": lambda it: {"query": WORD, "session_id": str(it["session_id"])},
}  # fmt: skip

FORMS: Mapping[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]] = {
    "POST /api/v2/documents": lambda it: {
        "file": SimpleUploadedFile("new.md", b"# New\n\nWords.", content_type="text/markdown"),
        "session_id": str(it["session_id"]),
    },
    "POST /tokens/": lambda _: {"name": "new", "scopes": ["read"], "days": "1"},
    "POST /theme/": lambda _: {"theme": "dark"},
    "POST /admin/governance/approval/<uuid:approval_id>/answer/<slug:act>/": lambda _: {
        "approve-scope": "once"
    },
    "POST /admin/governance/backtest/new/": lambda it: {
        "workspace": str(it["workspace_id"]), "begin-policy_hash": it["policy_hash"]
    },
    "POST /admin/governance/budget/new/": lambda it: {
        "workspace": str(it["workspace_id"]), "set-name": "new", "set-scope_kind": "user",
        "set-scope": str(it["user_id"]), "set-period": "day", "set-time_zone": "UTC",
        "set-limit_tokens": "9", "set-currency": "USD", "set-warn_percent": "80",
    },
    "POST /admin/governance/budget/<uuid:budget_id>/command/<slug:act>/": lambda _: {
        "raise-limit_tokens": "2000000", "raise-reason": "more"
    },
    "POST /admin/governance/breakglass/new/": lambda it: {
        "workspace": str(it["workspace_id"]), "open-reason": "The gateway is down.", "open-minutes": "5",
        "open-scope_kind": "workspace",
    },
    "POST /admin/governance/breakglass/<uuid:glass_id>/command/<slug:act>/": lambda _: {
        "end-note": "It is back."
    },
    "POST /admin/governance/budget/settings/": lambda it: {
        "workspace": str(it["workspace_id"]), "settings-time_zone": "Asia/Tokyo", "settings-currency": "EUR"
    },
    "POST /admin/governance/budget/export/": lambda it: {"workspace": str(it["workspace_id"])},
    "POST /admin/accounts/team/new/": lambda it: {
        "workspace": str(it["workspace_id"]), "new-name": "new team", "new-members": [str(it["user_id"])]
    },
    "POST /admin/accounts/team/<uuid:team_id>/command/<slug:act>/": lambda _: {"rename-name": "another name"},
    "POST /admin/governance/policyrule/new/": lambda it: {"workspace": str(it["workspace_id"])},
    "POST /admin/governance/policyrule/import/": lambda it: {
        "workspace": str(it["workspace_id"]), "import-text": it["policy_text"]
    },
    "POST /admin/governance/policyrule/set/<slug:act>/": lambda it: {
        "workspace": str(it["workspace_id"]), "activate-policy_hash": it["policy_hash"], "activate-note": "go"
    },
    "POST /admin/governance/policyrule/try/": lambda it: {
        "workspace": str(it["workspace_id"]), "try-decision_id": str(it["decision_id"])
    },
    "POST /admin/governance/policyversion/<uuid:version_id>/command/<slug:act>/": lambda it: {
        "propose-policy_hash": it["policy_hash"], "propose-note": "again"
    },
}  # fmt: skip

QUERIES: Mapping[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]] = {
    "GET /api/v2/log/consistency": lambda _: {"first": 1},
    "GET /api/v2/documents": lambda it: {"session_id": it["session_id"]},
    "GET /api/v2/documents/<uuid:document_id>/text": lambda _: {"start": 0, "end": 9},
    "GET /api/v2/policies/export": lambda it: {"policy_hash": it["policy_hash"]},
    "GET /admin/governance/policyrule/export/": lambda it: {"workspace": it["workspace_id"]},
    "GET /admin/governance/policyrule/import/": lambda it: {"workspace": it["workspace_id"]},
    "GET /admin/governance/policyrule/new/": lambda it: {"workspace": it["workspace_id"]},
    "GET /admin/governance/policyrule/coverage/": lambda it: {"workspace": it["workspace_id"]},
    "POST /admin/governance/policyrule/coverage/": lambda it: {"workspace": it["workspace_id"]},
    "GET /admin/governance/policyrule/": lambda it: {"workspace": it["workspace_id"]},
    "GET /admin/governance/policyrule/shadow/": lambda it: {"workspace": it["workspace_id"]},
    "POST /admin/governance/policyrule/shadow/": lambda it: {"workspace": it["workspace_id"]},
    "GET /admin/governance/policyrule/try/": lambda it: {"workspace": it["workspace_id"]},
    "POST /admin/governance/policyrule/try/": lambda it: {"workspace": it["workspace_id"]},
    "GET /api/v2/policies/stage": lambda it: {"policy_hash": it["policy_hash"]},
    "GET /api/v2/policies/shadow-report": lambda it: {"policy_hash": it["policy_hash"]},
    "GET /admin/governance/breakglass/": lambda it: {"workspace": it["workspace_id"]},
    "GET /admin/governance/breakglass/new/": lambda it: {"workspace": it["workspace_id"]},
    "GET /admin/governance/backtest/": lambda it: {"workspace": it["workspace_id"]},
    "GET /admin/governance/backtest/new/": lambda it: {"workspace": it["workspace_id"]},
    "GET /admin/governance/budget/": lambda it: {"workspace": it["workspace_id"]},
    "GET /admin/governance/budget/new/": lambda it: {"workspace": it["workspace_id"]},
    "GET /admin/governance/budget/settings/": lambda it: {"workspace": it["workspace_id"]},
    "GET /admin/governance/budget/export/": lambda it: {"workspace": it["workspace_id"]},
    "GET /admin/accounts/team/": lambda it: {"workspace": it["workspace_id"]},
    "GET /admin/accounts/team/new/": lambda it: {"workspace": it["workspace_id"]},
    "GET /admin/autocomplete/": lambda _: {
        "app_label": "admin", "model_name": "logentry", "field_name": "user", "term": ""
    },
}  # fmt: skip

# What a part of an address is where it is not the thing of its name.
PARTS: Mapping[str, Mapping[str, str]] = {
    "/api/v2/approvals/<uuid:approval_id>/answer": {"approval_id": "approval_asked"},
    "/api/v2/approvals/<uuid:approval_id>/withdraw": {"approval_id": "approval_granted"},
    "/admin/accounts/user/<id>/password/": {"id": "user_id"},
    "/api/v2/traces/<uuid:any_id>": {"any_id": "plan_id"},
    "/api/v2/agents/<str:name>": {"name": "agent_name"},
    "/api/v2/models/<str:name>": {"name": "model_name"},
    "/v1/models/<path:name>": {"name": "offer_name"},
    "/api/v2/tools/<str:name>": {"name": "tool_name"},
}
WORDS: Mapping[str, str] = {
    "secret": "no-such-secret",
    "url": "nowhere",
    "app_label": "governance",
    "content_type_id": "1",
}
ACTS: Mapping[str, str] = {
    "/admin/governance/approval/<uuid:approval_id>/answer/<slug:act>/": "approve",
    "/admin/governance/backtest/<uuid:back_test_id>/command/<slug:act>/": "cancel",
    "/admin/governance/breakglass/<uuid:glass_id>/command/<slug:act>/": "end",
    "/admin/governance/budget/<uuid:budget_id>/command/<slug:act>/": "raise",
    "/admin/accounts/team/<uuid:team_id>/command/<slug:act>/": "rename",
    "/admin/governance/policyrule/set/<slug:act>/": "activate",
    "/admin/governance/policyversion/<uuid:version_id>/command/<slug:act>/": "propose",
}


def send(world: World, caller: str, route: str) -> tuple[Any, str]:
    """Send the request as this caller; returns the answer and everything that was sent, as text."""
    method, _, pattern = route.partition(" ")
    named = world.named(caller)
    path = address(pattern, named)
    client = world.client(caller)
    query = QUERIES[route](named) if route in QUERIES else {}
    if query:
        path += "?" + "&".join(f"{name}={quote(str(value))}" for name, value in query.items())
    if method == "GET":
        return client.get(path), path
    if route in FORMS:
        form = FORMS[route](named)
        return client.post(path, form), f"{path} {form}"
    body = json.dumps(JSON[route](named)) if route in JSON else "{}"
    if pattern.startswith(("/api/", "/v1/")):
        return client.generic(method, path, body, content_type="application/json"), f"{path} {body}"
    return client.post(path), path


def address(pattern: str, named: Mapping[str, Any]) -> str:
    """Return the address of the thing that a pattern speaks of."""
    of_row = _ADMIN.match(pattern)

    def value(part: re.Match[str]) -> str:
        name = part[2]
        if name == "object_id":
            return str(row_id(of_row[1], of_row[2], named)) if of_row else "1"
        if name == "act":
            return ACTS[pattern]
        if name in WORDS:
            return WORDS[name]
        return str(named[PARTS.get(pattern, {}).get(name, name)])

    return _PART.sub(value, pattern)


def row_id(app: str, model: str, named: Mapping[str, Any]) -> object:
    """Return the id of a row of the first workspace; of any row where rows belong to none."""
    rows = apps.get_model(app, model)._default_manager
    fields = {field.name for field in rows.model._meta.get_fields()}
    if model == "workspace":
        return named["workspace_id"]
    if model == "team":
        return named["team_id"]
    found = rows.filter(workspace_id=named["workspace_id"]) if "workspace_id" in fields else rows.all()
    if {"governance": "approval"}.get(app) == model:
        return named["approval_id"]
    if model == "chatsession":
        return named["session_id"]
    if model == "user":
        return named["user_id"]
    row = found.order_by("pk").first()
    return row.pk if row is not None else UUID(int=0)
