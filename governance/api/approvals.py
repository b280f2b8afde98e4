"""REST: requests for approval."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, ClassVar, get_args
from uuid import UUID

from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from cartrita.accounts.authentication import caller
from cartrita.errors import NotFound
from cartrita.eventstore.canonical import canonical_json
from cartrita.http.conditional import IF_MATCH, entity_tag, expected_version
from cartrita.http.fields import Text
from cartrita.http.pagination import PAGE_PARAMETERS, page_parameters
from cartrita.http.parameters import uuid_parameter
from cartrita.http.views import ApiView
from governance.api.shared import validated
from governance.approval import NOTE_LIMIT, ApprovalStatus, GrantScope, NoteKind, Vote
from governance.commands import approvals as commands
from governance.policy import SubjectKind
from governance.queries import approvals as queries

SCOPES = list(get_args(GrantScope))
STATUSES = list(get_args(ApprovalStatus))


class ArgumentsErased(NotFound):
    """The arguments are erased, or not for the caller."""

    code: ClassVar[str] = "arguments_erased"


class VoteEntry(serializers.Serializer[Any]):
    """What somebody said; `own` tells that it was their own request."""

    by = serializers.CharField()
    user_id = serializers.UUIDField()
    vote = serializers.ChoiceField(choices=get_args(Vote))
    own = serializers.BooleanField()
    scope = serializers.CharField()
    at = serializers.DateTimeField()


class ApprovalEntry(serializers.Serializer[Any]):
    """A request for approval; `readable` tells whether the caller may read its text."""

    id = serializers.UUIDField()
    workspace_id = serializers.UUIDField()
    session_id = serializers.UUIDField(allow_null=True)
    version = serializers.IntegerField()
    decision_id = serializers.UUIDField()
    requester_id = serializers.UUIDField(allow_null=True)
    subject_kind = serializers.ChoiceField(choices=get_args(SubjectKind))
    agent = serializers.CharField(allow_blank=True)
    tool = serializers.CharField(allow_blank=True)
    model = serializers.CharField(allow_blank=True)
    definition_hash = serializers.CharField(allow_blank=True)
    safety_level = serializers.CharField(allow_blank=True)
    arguments_bytes = serializers.IntegerField()
    rule = serializers.CharField()
    rule_hash = serializers.CharField()
    policy_hash = serializers.CharField()
    reason = serializers.CharField()
    approver_roles = serializers.ListField(child=serializers.CharField())
    quorum = serializers.IntegerField()
    scopes = serializers.ListField(child=serializers.ChoiceField(choices=SCOPES))
    edited_by = serializers.CharField(allow_blank=True)
    status = serializers.ChoiceField(choices=STATUSES)
    votes = VoteEntry(many=True)
    scope = serializers.CharField(allow_blank=True, help_text="What the grant is for.")
    valid_until = serializers.DateTimeField(allow_null=True)
    own = serializers.BooleanField(help_text="The requester is among those who approved.")
    void_cause = serializers.CharField(allow_blank=True)
    uses = serializers.IntegerField()
    requested_at = serializers.DateTimeField()
    expires_at = serializers.DateTimeField()
    ended_at = serializers.DateTimeField(allow_null=True)
    readable = serializers.BooleanField()
    erased = serializers.BooleanField()


class ArgumentEntry(serializers.Serializer[Any]):
    """An argument for a page: hidden characters are written as ⟦U+202E⟧; above 4 KiB only hash and size."""

    name = serializers.CharField()
    text = serializers.CharField(allow_blank=True)
    bytes = serializers.IntegerField()
    sha256 = serializers.CharField()
    cut = serializers.BooleanField()


class NoteEntry(serializers.Serializer[Any]):
    """A comment, question or answer."""

    id = serializers.UUIDField()
    kind = serializers.ChoiceField(choices=get_args(NoteKind))
    by = serializers.CharField()
    text = serializers.CharField()
    created_at = serializers.DateTimeField()


class ApprovalDetail(ApprovalEntry):
    """A request with its exact arguments (null above 4 KiB: download them), notes and pattern."""

    arguments = serializers.DictField(allow_null=True)
    arguments_shown = ArgumentEntry(many=True)
    arguments_hash = serializers.CharField(allow_blank=True)
    pattern = serializers.DictField(child=serializers.CharField())
    replacement = serializers.DictField(allow_null=True)
    notes = NoteEntry(many=True)


class ApprovalPage(serializers.Serializer[Any]):
    """Requests for approval, newest first."""

    items = ApprovalEntry(many=True)
    next_cursor = serializers.CharField(allow_null=True)


class Approve(serializers.Serializer[Any]):
    """What a yes is for."""

    scope = serializers.ChoiceField(choices=SCOPES, default="once")
    pattern = serializers.DictField(
        child=Text(trim_whitespace=False),
        required=False,
        help_text="Each argument with its text; `*` stands for any text, `\\*` for a star.",
    )
    valid_until = serializers.DateTimeField(required=False)
    text = Text(required=False, allow_blank=True, max_length=NOTE_LIMIT)


class Deny(serializers.Serializer[Any]):
    """Why not."""

    text = Text(required=False, allow_blank=True, max_length=NOTE_LIMIT)


class Note(serializers.Serializer[Any]):
    """What to say."""

    text = Text(max_length=NOTE_LIMIT)


class Edit(serializers.Serializer[Any]):
    """Other arguments."""

    arguments = serializers.DictField()


class Approvals(ApiView):
    """The requests for approval that the caller may see."""

    @extend_schema(
        operation_id="approvals_list",
        parameters=[
            OpenApiParameter(
                "status",
                {"type": "string", "enum": [*get_args(ApprovalStatus), "all"], "default": "waiting"},
                description="Only those with this status.",
            ),
            OpenApiParameter("session_id", OpenApiTypes.UUID, description="Only those of this session."),
            *PAGE_PARAMETERS,
        ],
        responses=ApprovalPage,
    )
    def get(self, request: Request) -> Response:
        """List requests for approval, newest first; by default those that wait."""
        cursor, limit = page_parameters(request)
        status = request.query_params.get("status", "waiting")
        page = queries.inbox(
            caller(request),
            status=None if status == "all" else status,
            session_id=uuid_parameter(request, "session_id"),
            cursor=cursor,
            limit=limit,
        )
        return Response({"items": page.items, "next_cursor": page.next_cursor})


class ApprovalOne(ApiView):
    """One request for approval."""

    @extend_schema(operation_id="approvals_get", responses=ApprovalDetail)
    def get(self, request: Request, approval_id: UUID) -> Response:
        """Return a request with its exact arguments."""
        return _answer(request, approval_id)


class ApprovalArguments(ApiView):
    """The exact arguments of a request."""

    @extend_schema(
        operation_id="approvals_arguments", responses={(200, "application/json"): OpenApiTypes.OBJECT}
    )
    def get(self, request: Request, approval_id: UUID) -> HttpResponse:
        """Download the exact arguments as canonical JSON, whose SHA-256 is `arguments_hash`."""
        asked = caller(request)
        row = queries.visible_row(approval_id, asked)
        arguments = queries.arguments_of(row) if queries.may_read(row, asked) else None
        if arguments is None:
            raise ArgumentsErased("The arguments are erased, or not for you to read.")
        return HttpResponse(
            canonical_json(arguments),
            content_type="application/json",
            headers={
                "Content-Disposition": f'attachment; filename="arguments-{approval_id}.json"',
                "X-Content-Type-Options": "nosniff",
            },
        )


class _Act(ApiView):
    """Something that is done with a request."""

    def again(self, request: Request, approval_id: UUID) -> Response:
        """Return the request as it is now; what it is about may have been erased since."""
        return _answer(request, approval_id)


class ApprovalApprove(_Act):
    """Saying yes."""

    @extend_schema(
        operation_id="approvals_approve", parameters=[IF_MATCH], request=Approve, responses=ApprovalDetail
    )
    def post(self, request: Request, approval_id: UUID) -> Response:
        """Approve; the request is granted as soon as enough people did."""
        wanted = validated(Approve, request)
        commands.approve(
            approval_id=approval_id,
            caller=caller(request),
            scope=wanted["scope"],
            pattern=wanted.get("pattern"),
            valid_until=wanted.get("valid_until"),
            text=wanted.get("text", ""),
            expected_version=expected_version(request),
        )
        return _answer(request, approval_id)


class ApprovalDeny(_Act):
    """Saying no."""

    @extend_schema(
        operation_id="approvals_deny", parameters=[IF_MATCH], request=Deny, responses=ApprovalDetail
    )
    def post(self, request: Request, approval_id: UUID) -> Response:
        """Deny, which ends the request at once."""
        wanted = validated(Deny, request)
        commands.deny(
            approval_id=approval_id,
            caller=caller(request),
            text=wanted.get("text", ""),
            expected_version=expected_version(request),
        )
        return _answer(request, approval_id)


class ApprovalAsk(_Act):
    """Questions to the requester."""

    @extend_schema(operation_id="approvals_ask", request=Note, responses=ApprovalDetail)
    def post(self, request: Request, approval_id: UUID) -> Response:
        """Ask the requester something."""
        text = validated(Note, request)["text"]
        commands.ask(approval_id=approval_id, caller=caller(request), text=text)
        return _answer(request, approval_id)


class ApprovalComment(_Act):
    """Comments."""

    @extend_schema(operation_id="approvals_comment", request=Note, responses=ApprovalDetail)
    def post(self, request: Request, approval_id: UUID) -> Response:
        """Comment a request, also one that has ended."""
        text = validated(Note, request)["text"]
        commands.comment(approval_id=approval_id, caller=caller(request), text=text)
        return _answer(request, approval_id)


class ApprovalAnswer(_Act):
    """Answers of the requester."""

    @extend_schema(operation_id="approvals_answer", request=Note, responses=ApprovalDetail)
    def post(self, request: Request, approval_id: UUID) -> Response:
        """Answer as the requester."""
        text = validated(Note, request)["text"]
        commands.answer(approval_id=approval_id, caller=caller(request), text=text)
        return _answer(request, approval_id)


class ApprovalEdit(_Act):
    """Changing the arguments."""

    @extend_schema(
        operation_id="approvals_edit", parameters=[IF_MATCH], request=Edit, responses=ApprovalDetail
    )
    def post(self, request: Request, approval_id: UUID) -> Response:
        """Put other arguments in place: this request ends, and the run asks anew with them."""
        commands.edit_arguments(
            approval_id=approval_id,
            caller=caller(request),
            arguments=validated(Edit, request)["arguments"],
            expected_version=expected_version(request),
        )
        return _answer(request, approval_id)


class ApprovalWithdraw(_Act):
    """Taking a grant back."""

    @extend_schema(
        operation_id="approvals_withdraw", parameters=[IF_MATCH], request=None, responses=ApprovalDetail
    )
    def post(self, request: Request, approval_id: UUID) -> Response:
        """Take back a grant that is not used up."""
        commands.withdraw(
            approval_id=approval_id, caller=caller(request), expected_version=expected_version(request)
        )
        return _answer(request, approval_id)


# By the last part of their addresses.
ACTS: Mapping[str, type[ApiView]] = {
    "approve": ApprovalApprove,
    "deny": ApprovalDeny,
    "ask": ApprovalAsk,
    "comment": ApprovalComment,
    "answer": ApprovalAnswer,
    "edit": ApprovalEdit,
    "withdraw": ApprovalWithdraw,
}


def _answer(request: Request, approval_id: UUID) -> Response:
    found = queries.approval(approval_id, caller(request))
    found["arguments_shown"] = [asdict(one) for one in found["arguments_shown"]]
    return Response(found, headers=entity_tag(found["version"]))
