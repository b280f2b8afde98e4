"""REST: the rules of a workspace, its draft, and the sets that are and were in force."""

from dataclasses import asdict
from datetime import timedelta
from operator import itemgetter
from typing import Any, ClassVar, get_args

from django.utils import timezone
from django.utils.dateparse import parse_datetime
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from cartrita.accounts.authentication import caller
from cartrita.accounts.console import CONSOLE_ROLES
from cartrita.accounts.queries import Caller
from cartrita.errors import BadInput
from cartrita.http.conditional import IF_MATCH, entity_tag, expected_version, require_version
from cartrita.http.fields import Text
from cartrita.http.pagination import PAGE_PARAMETERS, page_of_all, page_parameters
from cartrita.http.views import ApiView
from governance import cel
from governance.commands import policies as commands
from governance.commands.trials import require_trier, try_set
from governance.decide import Verdict
from governance.examples import ExampleFailure
from governance.models import PolicyRule, PolicyVersion
from governance.policy import LARGEST_TEXT, Outcome, Problem
from governance.queries import policies as queries
from governance.queries.policies import Checked, Draft
from governance.rulebook import LONGEST_NOTE

OUTCOMES = list(get_args(Outcome))

# A policy file escaped as JSON.
BODY_LIMIT = 2 * LARGEST_TEXT
LONGEST_SPAN = timedelta(days=366)

HASH = r"^[0-9a-f]{64}$"
_EXPECTED = OpenApiParameter(
    "expected_version",
    {"type": "integer", "minimum": 0, "maximum": 2**31 - 1},
    description="The version of the draft that was looked at; refused with 409 when it moved on.",
)
_ONEHASH = OpenApiParameter(
    "policy_hash",
    {"type": "string", "pattern": HASH},
    description="The draft, a proposed or an earlier set; the one in force where it is left out.",
)


class PolicyProblem(serializers.Serializer[Any]):
    """A place that must change, or a doubt; lines and columns count from 1."""

    line = serializers.IntegerField()
    column = serializers.IntegerField()
    rule = serializers.CharField()
    field = serializers.CharField()
    message = serializers.CharField()


class FailedExample(serializers.Serializer[Any]):
    """An example that the set does not fulfil."""

    rule = serializers.CharField()
    number = serializers.IntegerField()
    message = serializers.CharField()


class CheckedPolicy(serializers.Serializer[Any]):
    """A set and what is wrong with it; `policy_hash` is empty while there are problems."""

    policy = serializers.CharField()
    policy_hash = serializers.CharField(allow_blank=True)
    rules = serializers.ListField(child=serializers.CharField(), help_text="Names, in order of priority.")
    problems = PolicyProblem(many=True)
    warnings = PolicyProblem(many=True)
    failures = FailedExample(many=True)


class ProposedPolicy(serializers.Serializer[Any]):
    """A set that waits for a second person."""

    policy_hash = serializers.CharField()
    by = serializers.CharField()
    note = serializers.CharField(allow_blank=True)
    proposed_at = serializers.DateTimeField()


class ApprovedPolicy(serializers.Serializer[Any]):
    """A proposed set that a second person gave leave to put in force."""

    policy_hash = serializers.CharField()
    proposed_by = serializers.CharField()
    by = serializers.CharField()


class ShadowedPolicy(serializers.Serializer[Any]):
    """The set that is evaluated beside every decision, and who asked for that."""

    policy_hash = serializers.CharField()
    by = serializers.CharField()


class PolicyDraft(CheckedPolicy):
    """The draft beside what is in force."""

    text = serializers.CharField(help_text="YAML.")
    version = serializers.IntegerField(help_text="What changes take as `expected_version`.")
    active_hash = serializers.CharField()
    changed = serializers.ListField(
        child=serializers.CharField(), help_text="Rules not in force as they are."
    )
    proposal = ProposedPolicy(allow_null=True)
    approved = ApprovedPolicy(many=True)
    shadow = ShadowedPolicy(allow_null=True)
    four_eyes = serializers.BooleanField(help_text="Whether a second person must put it in force.")
    four_eyes_until = serializers.DateTimeField(
        allow_null=True,
        help_text="When that ends unless somebody gets the role: two held it lately, and fewer do now.",
    )


class RuleEntry(serializers.Serializer[Any]):
    """A rule of the draft in its newest version."""

    name = serializers.CharField()
    version = serializers.IntegerField()
    priority = serializers.IntegerField()
    outcome = serializers.ChoiceField(choices=OUTCOMES)
    sentence = serializers.CharField()
    definition = serializers.DictField(help_text="The keys of a rule in a policy file.")
    rule_hash = serializers.CharField()
    updated_at = serializers.DateTimeField()
    updated_by = serializers.CharField()


class RuleList(serializers.Serializer[Any]):
    """The draft's rules, in order of priority."""

    items = RuleEntry(many=True)
    next_cursor = serializers.CharField(allow_null=True)


class VersionEntry(serializers.Serializer[Any]):
    """A set that is or was in force."""

    id = serializers.UUIDField()
    policy = serializers.CharField()
    policy_hash = serializers.CharField()
    rules = serializers.ListField(child=serializers.CharField())
    by = serializers.CharField()
    proposed_by = serializers.CharField(allow_blank=True)
    approved_by = serializers.CharField(allow_blank=True, help_text="Who gave leave before.")
    alone = serializers.BooleanField(help_text="Whether one person proposed it and put it in force.")
    note = serializers.CharField(allow_blank=True)
    active = serializers.BooleanField()
    activated_at = serializers.DateTimeField()
    retired_at = serializers.DateTimeField(allow_null=True)


class VersionPage(serializers.Serializer[Any]):
    """Sets that were in force, newest first."""

    items = VersionEntry(many=True)
    next_cursor = serializers.CharField(allow_null=True)


class PolicyText(serializers.Serializer[Any]):
    """A policy file."""

    text = Text(trim_whitespace=False, help_text="YAML.")


class PolicyImport(PolicyText):
    """A policy file that replaces the draft."""

    activate = serializers.BooleanField(default=False, help_text="Also put it in force.")
    note = Text(default="", allow_blank=True, max_length=LONGEST_NOTE)
    expected_version = serializers.IntegerField(required=False, min_value=0, max_value=2**31 - 1)


class PolicyTrial(serializers.Serializer[Any]):
    """A past decision, and what to try on it."""

    decision_id = serializers.UUIDField()
    text = Text(required=False, trim_whitespace=False, help_text="YAML; the draft where it is left out.")
    policy_hash = serializers.RegexField(
        HASH, required=False, help_text="A set that is known here, in place of a text."
    )


class RuleResultEntry(serializers.Serializer[Any]):
    """What one rule gave."""

    rule = serializers.CharField()
    result = serializers.ChoiceField(choices=["matched", "not_matched", "error"])
    detail = serializers.CharField(allow_blank=True)


class VerdictEntry(serializers.Serializer[Any]):
    """A verdict and every rule that was evaluated for it."""

    outcome = serializers.ChoiceField(choices=OUTCOMES)
    rule = serializers.CharField()
    reason = serializers.CharField()
    review = serializers.BooleanField()
    policy_hash = serializers.CharField()
    evaluated = RuleResultEntry(many=True)


class TriedPolicy(serializers.Serializer[Any]):
    """What was decided, and what the other set gives on the same request."""

    decision_id = serializers.UUIDField()
    changed = serializers.BooleanField()
    recorded = VerdictEntry()
    new = VerdictEntry()


class PolicyProposal(serializers.Serializer[Any]):
    """Which set to put in force."""

    policy_hash = serializers.RegexField(
        HASH, required=False, help_text="An earlier set; the draft where it is left out."
    )
    note = Text(default="", allow_blank=True, max_length=LONGEST_NOTE)
    expected_version = serializers.IntegerField(required=False, min_value=0, max_value=2**31 - 1)


class PolicyActivation(serializers.Serializer[Any]):
    """The set that the caller looked at: the draft, the proposed one, or an earlier one."""

    policy_hash = serializers.RegexField(HASH)
    note = Text(default="", allow_blank=True, max_length=LONGEST_NOTE)
    expected_version = serializers.IntegerField(required=False, min_value=0, max_value=2**31 - 1)


class ExportedPolicy(serializers.Serializer[Any]):
    """A set as a policy file."""

    policy_hash = serializers.CharField()
    text = serializers.CharField(help_text="YAML.")


class RuleHitEntry(serializers.Serializer[Any]):
    """How often a rule matched and decided."""

    rule = serializers.CharField()
    matched = serializers.IntegerField()
    decided = serializers.IntegerField()


class RuleHitList(serializers.Serializer[Any]):
    """Rules that matched since a time."""

    since = serializers.DateTimeField()
    items = RuleHitEntry(many=True)
    next_cursor = serializers.CharField(allow_null=True)


class KnownName(serializers.Serializer[Any]):
    """A name that conditions may read."""

    name = serializers.CharField()
    type = serializers.CharField()
    meaning = serializers.CharField()


class KnownNames(serializers.Serializer[Any]):
    """The names that conditions may read."""

    items = KnownName(many=True)
    next_cursor = serializers.CharField(allow_null=True)


class PolicyView(ApiView):
    """A view for whoever looks after a workspace; changes need the roles that the commands name."""

    roles = CONSOLE_ROLES
    body_limit = BODY_LIMIT


class Rules(PolicyView):
    """The draft's rules."""

    @extend_schema(operation_id="policy_rules_list", parameters=PAGE_PARAMETERS, responses=RuleList)
    def get(self, request: Request) -> Response:
        """List the draft's rules, in order of priority."""
        cursor, limit = page_parameters(request)
        page = queries.rules_page(caller(request).workspace_id, cursor=cursor, limit=limit)
        return Response({"items": [_rule(row) for row in page.items], "next_cursor": page.next_cursor})


class RuleDetail(PolicyView):
    """One rule of the draft."""

    @extend_schema(operation_id="policy_rules_get", responses=RuleEntry)
    def get(self, request: Request, name: str) -> Response:
        """Return a rule of the draft."""
        return _answer_rule(queries.rule(caller(request).workspace_id, name))

    @extend_schema(
        operation_id="policy_rules_put",
        parameters=[_EXPECTED, IF_MATCH],
        request=OpenApiTypes.OBJECT,
        responses=RuleEntry,
    )
    def put(self, request: Request, name: str) -> Response:
        """Write a rule; the body has the keys of a rule in a policy file."""
        asked = caller(request)
        definition = request.data
        if not isinstance(definition, dict):
            raise BadInput("Send a JSON object with the keys of a rule.", field="body")
        if definition.get("name", name) != name:
            raise BadInput("The rule's name is not that of its address; leave it out.", field="name")
        commands.write_rule(
            workspace_id=asked.workspace_id,
            definition={**definition, "name": name},
            caller=asked,
            expected_version=_version_seen(request, asked, name),
        )
        return _answer_rule(queries.rule(asked.workspace_id, name))

    @extend_schema(
        operation_id="policy_rules_withdraw", parameters=[_EXPECTED, IF_MATCH], responses={204: None}
    )
    def delete(self, request: Request, name: str) -> Response:
        """Take a rule out of the draft."""
        asked = caller(request)
        commands.withdraw_rule(
            workspace_id=asked.workspace_id,
            name=name,
            caller=asked,
            expected_version=_version_seen(request, asked, name),
        )
        return Response(status=204)


class DraftDetail(PolicyView):
    """The draft."""

    @extend_schema(operation_id="policy_draft_get", responses=PolicyDraft)
    def get(self, request: Request) -> Response:
        """Return the draft with what is wrong with it, and what is in force."""
        return answer_draft(queries.draft(caller(request).workspace_id))


class Imports(PolicyView):
    """Policy files that replace the draft."""

    @extend_schema(
        operation_id="policy_import", parameters=[IF_MATCH], request=PolicyImport, responses=PolicyDraft
    )
    def post(self, request: Request) -> Response:
        """Make the draft equal to a policy file; a problem names line and column."""
        asked = caller(request)
        wanted = PolicyImport(data=request.data)
        wanted.is_valid(raise_exception=True)
        values = wanted.validated_data
        commands.import_policy(
            workspace_id=asked.workspace_id,
            text=values["text"],
            caller=asked,
            activate=values["activate"],
            note=values["note"],
            expected_version=values.get("expected_version", expected_version(request)),
        )
        return answer_draft(queries.draft(asked.workspace_id))


class Validations(PolicyView):
    """Policy files to look at."""

    scopes: ClassVar = {"POST": "read"}
    kept = False

    @extend_schema(operation_id="policy_validate", request=PolicyText, responses=CheckedPolicy)
    def post(self, request: Request) -> Response:
        """Check a policy file and try its examples; nothing is kept."""
        wanted = PolicyText(data=request.data)
        wanted.is_valid(raise_exception=True)
        return Response(_checked(queries.check_text(wanted.validated_data["text"])))


class Trials(PolicyView):
    """What another set would have decided."""

    scopes: ClassVar = {"POST": "read"}
    kept = False

    @extend_schema(operation_id="policy_try", request=PolicyTrial, responses=TriedPolicy)
    def post(self, request: Request) -> Response:
        """Decide a past request again under another set, beside what was decided.

        Of the draft, and of a set that is known here, it is kept that it was tried.
        """
        asked = caller(request)
        wanted = PolicyTrial(data=request.data)
        wanted.is_valid(raise_exception=True)
        values = wanted.validated_data
        if "text" in values and "policy_hash" in values:
            raise BadInput("Send a text or a policy_hash, not both.", field="policy_hash")
        about = {"workspace_id": asked.workspace_id, "decision_id": values["decision_id"]}
        if "text" in values:
            require_trier(asked)
            tried = queries.try_on(**about, text=values["text"])
        else:
            tried = try_set(**about, policy_hash=values.get("policy_hash"), caller=asked)
        return Response(
            {
                "decision_id": tried.decision_id,
                "changed": tried.changed,
                "recorded": _verdict(tried.recorded),
                "new": _verdict(tried.new),
            }
        )


class Proposals(PolicyView):
    """What a second person is asked to put in force."""

    @extend_schema(
        operation_id="policy_propose", parameters=[IF_MATCH], request=PolicyProposal, responses=PolicyDraft
    )
    def post(self, request: Request) -> Response:
        """Ask a second person to put the draft, or an earlier set, in force."""
        asked = caller(request)
        wanted = PolicyProposal(data=request.data)
        wanted.is_valid(raise_exception=True)
        values = wanted.validated_data
        commands.propose(
            workspace_id=asked.workspace_id,
            caller=asked,
            policy_hash=values.get("policy_hash"),
            note=values["note"],
            expected_version=values.get("expected_version", expected_version(request)),
        )
        return answer_draft(queries.draft(asked.workspace_id))


class Activations(PolicyView):
    """Which set decides."""

    @extend_schema(
        operation_id="policy_activate",
        parameters=[IF_MATCH],
        request=PolicyActivation,
        responses=VersionEntry,
    )
    def post(self, request: Request) -> Response:
        """Put the draft, the proposed set or an earlier one in force."""
        asked = caller(request)
        wanted = PolicyActivation(data=request.data)
        wanted.is_valid(raise_exception=True)
        values = wanted.validated_data
        commands.activate(
            workspace_id=asked.workspace_id,
            policy_hash=values["policy_hash"],
            caller=asked,
            note=values["note"],
            expected_version=values.get("expected_version", expected_version(request)),
        )
        return Response(_version(queries.version_in_force(asked.workspace_id)))


class Versions(PolicyView):
    """The sets that were in force."""

    @extend_schema(
        operation_id="policy_versions_list",
        parameters=PAGE_PARAMETERS,
        responses=VersionPage,
    )
    def get(self, request: Request) -> Response:
        """List the sets that were in force, newest first."""
        cursor, limit = page_parameters(request)
        page = queries.versions(caller(request).workspace_id, cursor=cursor, limit=limit)
        return Response({"items": [_version(row) for row in page.items], "next_cursor": page.next_cursor})


class Exports(PolicyView):
    """Sets as policy files."""

    @extend_schema(operation_id="policy_export", parameters=[_ONEHASH], responses=ExportedPolicy)
    def get(self, request: Request) -> Response:
        """Return a set as YAML that reads back to the same hash."""
        workspace_id = caller(request).workspace_id
        policy_hash = request.query_params.get("policy_hash")
        if policy_hash is None:
            policy_hash = queries.active_policy(workspace_id).content_hash
        text = queries.export_text(workspace_id, policy_hash)
        return Response({"policy_hash": policy_hash, "text": text})


class Hits(PolicyView):
    """Which rules matched and decided."""

    @extend_schema(
        operation_id="policy_hits",
        parameters=[
            OpenApiParameter(
                "since", OpenApiTypes.DATETIME, description="At most 366 days ago; 30 days by default."
            ),
            *PAGE_PARAMETERS,
        ],
        responses=RuleHitList,
    )
    def get(self, request: Request) -> Response:
        """Count how often each rule matched and decided since a time."""
        cursor, limit = page_parameters(request)
        since = since_of(request)
        hits = queries.rule_hits(caller(request).workspace_id, since)
        page = page_of_all(hits.items(), key=itemgetter(0), cursor=cursor, limit=limit)
        items = [{"rule": name, **asdict(each)} for name, each in page.items]
        return Response({"since": since, "items": items, "next_cursor": page.next_cursor})


class Names(PolicyView):
    """The names that conditions may read."""

    @extend_schema(operation_id="policy_names", parameters=PAGE_PARAMETERS, responses=KnownNames)
    def get(self, request: Request) -> Response:
        """List the names that conditions may read, with types and meanings."""
        caller(request)
        cursor, limit = page_parameters(request)
        page = page_of_all(cel.VARIABLES.items(), key=itemgetter(0), cursor=cursor, limit=limit)
        items = [
            {"name": name, "type": kind.name(), "meaning": meaning} for name, (kind, meaning) in page.items
        ]
        return Response({"items": items, "next_cursor": page.next_cursor})


def _answer_rule(row: PolicyRule) -> Response:
    return Response(_rule(row), headers=entity_tag(row.version))


def answer_draft(draft: Draft) -> Response:
    return Response(_draft(draft), headers=entity_tag(draft.version))


def _version_seen(request: Request, asked: Caller, name: str) -> int | None:
    """Return at which version of the draft a change of a rule holds: If-Match names that of the rule."""
    wanted = _expected_version(request)
    if expected_version(request) is None:
        return wanted
    draft = queries.draft(asked.workspace_id)
    require_version(request, queries.rule(asked.workspace_id, name).version)
    return draft.version if wanted is None else wanted


def _rule(row: PolicyRule) -> dict[str, Any]:
    return dict(RuleEntry(row).data)


def _version(row: PolicyVersion) -> dict[str, Any]:
    return dict(VersionEntry(row).data)


def _checked(checked: Checked) -> dict[str, Any]:
    return {
        "policy": checked.policy,
        "policy_hash": checked.policy_hash,
        "rules": [rule.name for rule in checked.rules],
        "problems": _all(checked.problems),
        "warnings": _all(checked.warnings),
        "failures": _all(checked.failures),
    }


def _draft(draft: Draft) -> dict[str, Any]:
    return {
        **_checked(draft),
        "text": draft.text,
        "version": draft.version,
        "active_hash": draft.active_hash,
        "changed": list(draft.changed),
        "proposal": {**asdict(draft.proposal), "proposed_at": draft.proposed_at} if draft.proposal else None,
        "approved": [asdict(leave) for leave in draft.approved],
        "shadow": asdict(draft.shadow) if draft.shadow else None,
        "four_eyes": draft.four_eyes.on,
        "four_eyes_until": draft.four_eyes.until,
    }


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "outcome": verdict.outcome,
        "rule": verdict.rule,
        "reason": verdict.reason,
        "review": verdict.review,
        "policy_hash": verdict.policy_hash,
        "evaluated": [asdict(one) for one in verdict.evaluated],
    }


def _all(found: tuple[Problem, ...] | tuple[ExampleFailure, ...]) -> list[dict[str, Any]]:
    return [asdict(one) for one in found]


def _expected_version(request: Request) -> int | None:
    text = request.query_params.get("expected_version")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 11 and int(text) < 2**31):
        raise BadInput("expected_version is the draft's version, a whole number.", field="expected_version")
    return int(text)


def since_of(request: Request) -> Any:
    text = request.query_params.get("since")
    now = timezone.now()
    if text is None:
        return now - timedelta(days=30)
    try:
        since = parse_datetime(text)
    except ValueError:
        since = None
    if since is None or since.tzinfo is None or not now - LONGEST_SPAN <= since <= now:
        raise BadInput(
            "since is a time of the last 366 days with its zone, such as 2026-03-01T00:00:00Z.", field="since"
        )
    return since
