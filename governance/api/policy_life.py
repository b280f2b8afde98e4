"""REST: how a policy set gets from a proposal into shadow, into force, or nowhere."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, get_args

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from cartrita.accounts.authentication import caller
from cartrita.http.conditional import IF_MATCH, expected_version
from cartrita.http.fields import Text
from governance.api.policies import HASH, OUTCOMES, PolicyDraft, PolicyView, answer_draft, since_of
from governance.commands import policies as commands
from governance.queries import policies as queries
from governance.queries.policies import ShadowReport
from governance.queries.stages import STAGES, StageState
from governance.rulebook import LONGEST_NOTE, UnknownPolicy

_OF_SET = OpenApiParameter(
    "policy_hash", {"type": "string", "pattern": HASH}, description="A set; the draft where it is left out."
)
_OF_SHADOW = OpenApiParameter(
    "policy_hash",
    {"type": "string", "pattern": HASH},
    description="A set that was in shadow; the one that is, or was last, where it is left out.",
)
_SINCE = OpenApiParameter(
    "since", OpenApiTypes.DATETIME, description="At most 366 days ago; 30 days by default."
)


class _Expected(serializers.Serializer[Any]):
    expected_version = serializers.IntegerField(required=False, min_value=0, max_value=2**31 - 1)


class PolicyApproval(_Expected):
    """The proposed set that the caller looked at, and approves."""

    policy_hash = serializers.RegexField(HASH)
    note = Text(default="", allow_blank=True, max_length=LONGEST_NOTE)


class PolicyRejection(_Expected):
    """The set that is refused, and why."""

    policy_hash = serializers.RegexField(HASH)
    reason = Text(max_length=LONGEST_NOTE)


class PolicyWithdrawal(_Expected):
    """The set whose proposal is taken back."""

    policy_hash = serializers.RegexField(HASH)


class PolicyShadow(_Expected):
    """Which set to evaluate beside every decision."""

    policy_hash = serializers.RegexField(HASH, required=False, help_text="The draft where it is left out.")
    note = Text(default="", allow_blank=True, max_length=LONGEST_NOTE)


class PolicyUnshadow(_Expected):
    """The set that is evaluated no more."""

    policy_hash = serializers.RegexField(HASH, required=False, help_text="The one that the caller looked at.")
    reason = Text(default="", allow_blank=True, max_length=LONGEST_NOTE)


class StageEntry(serializers.Serializer[Any]):
    """A stage of a set: `open`, `now` (it is there), `done`, `failed`, or `skipped`."""

    name = serializers.ChoiceField(choices=STAGES)
    state = serializers.ChoiceField(choices=get_args(StageState))
    at = serializers.DateTimeField(allow_null=True)
    by = serializers.CharField(allow_blank=True)
    note = serializers.CharField(allow_blank=True)


class PolicyStages(serializers.Serializer[Any]):
    """The stages of a set, in the order of its life."""

    policy_hash = serializers.CharField(allow_blank=True)
    stages = StageEntry(many=True)


class ShadowCell(serializers.Serializer[Any]):
    """How many decisions had one outcome, and would have had another."""

    before = serializers.ChoiceField(choices=OUTCOMES)
    after = serializers.ChoiceField(choices=OUTCOMES)
    count = serializers.IntegerField()


class ShadowRuleChange(ShadowCell):
    """How many decisions another rule would have decided, or the same one otherwise."""

    rule = serializers.CharField()
    shadow_rule = serializers.CharField()


class ShadowAbout(serializers.Serializer[Any]):
    """How many decisions about a tool, a model or a kind, and how many would change."""

    name = serializers.CharField()
    count = serializers.IntegerField()
    changed = serializers.IntegerField()


class ShadowExample(serializers.Serializer[Any]):
    """A decision that the set would have decided otherwise."""

    decision_id = serializers.UUIDField()
    session_id = serializers.UUIDField(allow_null=True)
    created_at = serializers.DateTimeField()
    name = serializers.CharField()
    rule = serializers.CharField()
    before = serializers.ChoiceField(choices=OUTCOMES)
    shadow_rule = serializers.CharField()
    after = serializers.ChoiceField(choices=OUTCOMES)


class PolicyShadowReport(serializers.Serializer[Any]):
    """What a set in shadow would have changed, beside what was decided."""

    policy_hash = serializers.CharField()
    since = serializers.DateTimeField()
    until = serializers.DateTimeField()
    watched_seconds = serializers.IntegerField(help_text="For how long it was in shadow in that time.")
    decisions = serializers.IntegerField()
    changed = serializers.IntegerField(help_text="Decisions whose outcome would be another one.")
    other_rule = serializers.IntegerField(help_text="The same outcome, by another rule.")
    not_evaluated = serializers.IntegerField(help_text="Not among the decisions.")
    approvals_before = serializers.IntegerField()
    approvals_after = serializers.IntegerField()
    approvals_a_day = serializers.FloatField(help_text="How many more a day; below zero, fewer.")
    matrix = ShadowCell(many=True)
    by_rule = ShadowRuleChange(many=True)
    by_tool = ShadowAbout(many=True)
    examples = ShadowExample(many=True)
    unread = serializers.ListField(
        child=serializers.CharField(),
        help_text="Rules of the set that read the text of answers; they saw none of those that left while "
        "they were written.",
    )


class Approvals(PolicyView):
    """Leave for proposed sets."""

    @extend_schema(
        operation_id="policy_approve", parameters=[IF_MATCH], request=PolicyApproval, responses=PolicyDraft
    )
    def post(self, request: Request) -> Response:
        """Give leave, as the second person, to put exactly the proposed set in force."""
        return _done(request, PolicyApproval, commands.approve)


class Rejections(PolicyView):
    """Sets that may not come in force."""

    @extend_schema(
        operation_id="policy_reject", parameters=[IF_MATCH], request=PolicyRejection, responses=PolicyDraft
    )
    def post(self, request: Request) -> Response:
        """Refuse a set that is proposed or approved, and say why."""
        return _done(request, PolicyRejection, commands.reject)


class Withdrawals(PolicyView):
    """Proposals that are taken back."""

    @extend_schema(
        operation_id="policy_withdraw", parameters=[IF_MATCH], request=PolicyWithdrawal, responses=PolicyDraft
    )
    def post(self, request: Request) -> Response:
        """Take back what the caller proposed, also where it is approved."""
        return _done(request, PolicyWithdrawal, commands.withdraw_proposal)


class Shadows(PolicyView):
    """The set that is evaluated beside every decision."""

    @extend_schema(
        operation_id="policy_shadow", parameters=[IF_MATCH], request=PolicyShadow, responses=PolicyDraft
    )
    def post(self, request: Request) -> Response:
        """Have a set evaluated beside every decision: recorded, not enforced."""
        return _done(request, PolicyShadow, commands.shadow)


class Unshadows(PolicyView):
    """The end of a time in shadow."""

    @extend_schema(
        operation_id="policy_unshadow", parameters=[IF_MATCH], request=PolicyUnshadow, responses=PolicyDraft
    )
    def post(self, request: Request) -> Response:
        """Evaluate no set beside decisions any more."""
        return _done(request, PolicyUnshadow, commands.end_shadow)


class Stages(PolicyView):
    """How far a set is."""

    @extend_schema(operation_id="policy_stage", parameters=[_OF_SET], responses=PolicyStages)
    def get(self, request: Request) -> Response:
        """List the stages of a set, each with who and when."""
        workspace_id = caller(request).workspace_id
        draft = queries.draft(workspace_id)
        policy_hash = request.query_params.get("policy_hash")
        found = queries.stage(workspace_id, policy_hash, checked=draft)
        shown = draft.policy_hash if policy_hash is None else policy_hash
        return Response({"policy_hash": shown, "stages": [asdict(each) for each in found]})


class ShadowReports(PolicyView):
    """What sets in shadow would have changed."""

    @extend_schema(
        operation_id="policy_shadow_report", parameters=[_SINCE, _OF_SHADOW], responses=PolicyShadowReport
    )
    def get(self, request: Request) -> Response:
        """Count what a set in shadow would have changed since a time, beside what was decided."""
        report = queries.shadow_report(
            caller(request).workspace_id,
            since_of(request),
            policy_hash=request.query_params.get("policy_hash"),
        )
        if report is None:
            raise UnknownPolicy("No set was in shadow here yet.", field="policy_hash")
        return Response(shadow_report_json(report))


VIEWS: Mapping[str, type[PolicyView]] = {
    "approve": Approvals,
    "reject": Rejections,
    "withdraw": Withdrawals,
    "shadow": Shadows,
    "unshadow": Unshadows,
    "stage": Stages,
    "shadow-report": ShadowReports,
}


def shadow_report_json(report: ShadowReport) -> dict[str, Any]:
    """Return a report as JSON values."""
    written = asdict(report)
    del written["watched"]
    return {
        **written,
        "watched_seconds": int(report.watched.total_seconds()),
        "approvals_a_day": report.approvals_a_day,
    }


def _done(request: Request, form: type[serializers.Serializer[Any]], command: Any) -> Response:
    """Call a command with what was sent, and answer with the draft as it is then."""
    asked = caller(request)
    wanted = form(data=request.data)
    wanted.is_valid(raise_exception=True)
    given = {"expected_version": expected_version(request), **wanted.validated_data}
    command(workspace_id=asked.workspace_id, caller=asked, **given)
    return answer_draft(queries.draft(asked.workspace_id))
