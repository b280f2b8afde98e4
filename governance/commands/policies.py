"""What people, programs and the start of the system may do with policies: load, decide, append."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction

from cartrita.accounts.console import names_of
from cartrita.accounts.queries import Caller
from cartrita.errors import CartritaError, NotAllowed
from cartrita.eventstore import (
    Append,
    Context,
    Event,
    RecordedEvent,
    StreamMoved,
    append,
    derived_id,
    load,
    put_blob,
)
from governance import rulebook as rulebooks
from governance.examples import run_examples
from governance.policy import PolicyNotValid, PolicySet, Problem, compile_rule, load_policy
from governance.policy_store import policy_of_file, policy_set
from governance.queries.four_eyes import four_eyes
from governance.rulebook import APPROVERS, Rulebook, UnknownPolicy, compile_draft, rulebook_id

TRIES = 5
_BEGIN_LOCK = 0x72756C65  # "rule", so that these advisory locks meet no other

Decide = Callable[[Rulebook], list[Event]]


class RulebookMoved(StreamMoved):
    """The rulebook is not at the version that the caller expected."""

    code: ClassVar[str] = "rulebook_moved"

    def __init__(self, moved: StreamMoved) -> None:
        super().__init__(
            stream_id=moved.stream_id,
            expected_version=moved.expected_version,
            actual_version=moved.actual_version,
        )
        self.message = (
            f"The rules changed since you read them (version {moved.expected_version}, now "
            f"{moved.actual_version}); look at them again and repeat your change."
        )
        self.args = (self.message,)


class OtherWorkspace(NotAllowed):
    """The caller acts in another workspace."""

    code: ClassVar[str] = "other_workspace"


def begin_rulebook(*, workspace_id: UUID) -> None:
    """Put the set of `settings.POLICY_FILE` in force in a workspace that has none; once.

    Joins the caller's transaction. Raises PolicyNotValid, PolicyNotReadable.
    """
    stream_id = rulebook_id(workspace_id)
    with transaction.atomic():
        # Several processes may begin at once, perhaps with different files: the first one's stands.
        _lock(stream_id)
        if load(stream_id, up_to_version=1):
            return
        policy = policy_of_file(settings.POLICY_FILE)
        put_blob(policy.text.encode(), key_id=None)
        events = rulebooks.begin(policy)
        event_ids = [derived_id(stream_id, f"begin:{place}") for place in range(len(events))]
        append(Append(stream_id, 0, events, Context(workspace_id=workspace_id), event_ids))


def write_rule(
    *,
    workspace_id: UUID,
    definition: Mapping[str, Any],
    caller: Caller,
    expected_version: int | None = None,
) -> list[RecordedEvent]:
    """Add a rule to the draft or change it, and return what was recorded: nothing when it stands there so.

    `definition` has the keys of a rule in a policy file. Raises PolicyNotValid with the place in each wrong
    field, MayNotChangePolicy, RuleTooLarge, RulebookMoved.
    """
    rulebooks.require_author(caller.roles)
    rule = compile_rule(definition)
    return _change(workspace_id, caller, lambda rulebook: rulebooks.write(rulebook, rule), expected_version)


def withdraw_rule(
    *, workspace_id: UUID, name: str, caller: Caller, expected_version: int | None = None
) -> list[RecordedEvent]:
    """Take a rule out of the draft and return what was recorded: nothing when it was taken out before.

    Raises UnknownRule, MayNotChangePolicy, RulebookMoved.
    """
    rulebooks.require_author(caller.roles)
    return _change(
        workspace_id, caller, lambda rulebook: rulebooks.withdraw(rulebook, name), expected_version
    )


def import_policy(
    *,
    workspace_id: UUID,
    text: str,
    caller: Caller,
    activate: bool = False,
    note: str = "",
    expected_version: int | None = None,
) -> list[RecordedEvent]:
    """Make the draft equal to a policy file, and put it in force where asked; return what was recorded.

    Raises PolicyNotValid with every problem's line and column, MayNotChangePolicy, RuleTooLarge,
    SecondPersonNeeded, RulebookMoved.
    """
    rulebooks.require_author(caller.roles)
    policy = load_policy(text)

    def decide(rulebook: Rulebook) -> list[Event]:
        events = rulebooks.replace_rules(rulebook, policy)
        after = rulebooks.fold_onto(rulebook, events)
        if not activate:
            return events
        compiled = _ready(compile_draft(after))
        if compiled.content_hash == rulebook.active_hash:
            return events
        return [*events, *_activate(after, compiled, workspace_id, caller, note)]

    return _change(workspace_id, caller, decide, expected_version)


def propose(
    *,
    workspace_id: UUID,
    caller: Caller,
    policy_hash: str | None = None,
    note: str = "",
    expected_version: int | None = None,
) -> list[RecordedEvent]:
    """Ask a second person for leave to put the draft in force, or the earlier set `policy_hash`.

    Return what was recorded. Raises MayNotChangePolicy, UnknownPolicy, AlreadyInForce, AlreadyApproved,
    RulebookMoved, and PolicyNotValid for a draft that does not compile or whose examples fail.
    """
    rulebooks.require_author(caller.roles)

    def decide(rulebook: Rulebook) -> list[Event]:
        policy = _named(rulebook, policy_hash)
        put_blob(policy.text.encode(), key_id=None)
        return rulebooks.propose(
            rulebook,
            policy,
            by=_person(caller),
            roles=caller.roles,
            four_eyes=four_eyes(workspace_id, APPROVERS),
            note=note,
        )

    return _change(workspace_id, caller, decide, expected_version)


def approve(
    *,
    workspace_id: UUID,
    policy_hash: str,
    caller: Caller,
    note: str = "",
    expected_version: int | None = None,
) -> list[RecordedEvent]:
    """Give leave, as the second person, to put exactly the proposed set in force; the draft may move on.

    Return what was recorded. Raises MayNotChangePolicy, SecondPersonNeeded, AlreadyApproved, ProposalEnded,
    AlreadyInForce, NotProposed, RulebookMoved.
    """

    def decide(rulebook: Rulebook) -> list[Event]:
        return rulebooks.approve(
            rulebook,
            policy_hash,
            by=_person(caller),
            roles=caller.roles,
            four_eyes=four_eyes(workspace_id, APPROVERS),
            note=note,
        )

    return _change(workspace_id, caller, decide, expected_version)


def reject(
    *,
    workspace_id: UUID,
    policy_hash: str,
    caller: Caller,
    reason: str,
    expected_version: int | None = None,
) -> list[RecordedEvent]:
    """Refuse a set that is proposed or approved, and say why.

    Return what was recorded. Raises MayNotChangePolicy, BadInput, ProposalEnded, AlreadyInForce, NotProposed,
    RulebookMoved.
    """

    def decide(rulebook: Rulebook) -> list[Event]:
        return rulebooks.reject(rulebook, policy_hash, by=_person(caller), roles=caller.roles, reason=reason)

    return _change(workspace_id, caller, decide, expected_version)


def withdraw_proposal(
    *, workspace_id: UUID, policy_hash: str, caller: Caller, expected_version: int | None = None
) -> list[RecordedEvent]:
    """Take back what the caller proposed, also where it is approved.

    Return what was recorded. Raises MayNotChangePolicy, ProposalEnded, AlreadyInForce, NotProposed,
    RulebookMoved.
    """

    def decide(rulebook: Rulebook) -> list[Event]:
        return rulebooks.withdraw_proposal(rulebook, policy_hash, by=_person(caller))

    return _change(workspace_id, caller, decide, expected_version)


def shadow(
    *,
    workspace_id: UUID,
    caller: Caller,
    policy_hash: str | None = None,
    note: str = "",
    expected_version: int | None = None,
) -> list[RecordedEvent]:
    """Have a set evaluated beside every decision: an approved, proposed or earlier one (None: the draft).

    It is recorded with each decision and never enforced. Return what was recorded. Raises MayNotChangePolicy,
    SecondPersonNeeded, UnknownPolicy, AlreadyInForce, AlreadyInShadow, RulebookMoved, and PolicyNotValid for
    a draft whose examples fail.
    """

    def decide(rulebook: Rulebook) -> list[Event]:
        policy = _named(rulebook, policy_hash)
        put_blob(policy.text.encode(), key_id=None)
        return rulebooks.shadow(
            rulebook,
            policy,
            by=_person(caller),
            roles=caller.roles,
            four_eyes=four_eyes(workspace_id, APPROVERS),
            note=note,
        )

    return _change(workspace_id, caller, decide, expected_version)


def end_shadow(
    *,
    workspace_id: UUID,
    caller: Caller,
    policy_hash: str | None = None,
    reason: str = "",
    expected_version: int | None = None,
) -> list[RecordedEvent]:
    """Evaluate no set beside decisions any more; `policy_hash` says which one the caller looked at.

    Return what was recorded. Raises MayNotChangePolicy, NotInShadow, RulebookMoved.
    """

    def decide(rulebook: Rulebook) -> list[Event]:
        return rulebooks.end_shadow(
            rulebook, by=_person(caller), roles=caller.roles, policy_hash=policy_hash, reason=reason
        )

    return _change(workspace_id, caller, decide, expected_version)


def activate(
    *,
    workspace_id: UUID,
    policy_hash: str,
    caller: Caller,
    note: str = "",
    expected_version: int | None = None,
) -> list[RecordedEvent]:
    """Put the draft in force, or the proposed set; `policy_hash` says which one the caller looked at.

    Return what was recorded. Raises MayNotChangePolicy, SecondPersonNeeded, UnknownPolicy, AlreadyInForce,
    RulebookMoved, and PolicyNotValid for a draft whose examples fail.
    """

    def decide(rulebook: Rulebook) -> list[Event]:
        return _activate(rulebook, _named(rulebook, policy_hash), workspace_id, caller, note)

    return _change(workspace_id, caller, decide, expected_version)


def activate_again(
    *,
    workspace_id: UUID,
    policy_hash: str,
    caller: Caller,
    note: str = "",
    expected_version: int | None = None,
) -> list[RecordedEvent]:
    """Roll back: put a set in force that was before. The draft stays as it is.

    Return what was recorded. Raises as `activate` does, UnknownPolicy for a set that never was in force here.
    """

    def decide(rulebook: Rulebook) -> list[Event]:
        if policy_hash not in rulebook.in_force:
            raise UnknownPolicy(f"The set {policy_hash} never was in force here.", field="policy_hash")
        return _activate(rulebook, policy_set(policy_hash), workspace_id, caller, note)

    return _change(workspace_id, caller, decide, expected_version)


def _activate(
    rulebook: Rulebook, policy: PolicySet, workspace_id: UUID, caller: Caller, note: str
) -> list[Event]:
    put_blob(policy.text.encode(), key_id=None)
    return rulebooks.activate(
        rulebook,
        policy,
        by=_person(caller),
        roles=caller.roles,
        four_eyes=four_eyes(workspace_id, APPROVERS),
        note=note,
    )


def _named(rulebook: Rulebook, policy_hash: str | None) -> PolicySet:
    """Return the draft, or a set of before, that the hash names (None: the draft)."""
    # What waits for a second person was tried when it was proposed, and the draft may have moved on since.
    if policy_hash and policy_hash in rulebook.stored:
        return policy_set(policy_hash)
    draft = compile_draft(rulebook)
    if policy_hash not in {None, draft.content_hash}:
        raise UnknownPolicy(
            f"The set {policy_hash} is not the draft (whose hash is {draft.content_hash} now), not proposed, "
            "and never was in force here; look at the draft again.",
            field="policy_hash",
        )
    return _ready(draft)


def _ready(policy: PolicySet) -> PolicySet:
    """Return the set when all its examples hold. Raises PolicyNotValid, naming each that does not."""
    problems = [
        Problem(
            line=1, column=1, rule=failure.rule, field=f"example {failure.number}", message=failure.message
        )
        for failure in run_examples(policy)
    ]
    if problems:
        raise PolicyNotValid("draft", problems)
    return policy


def _change(
    workspace_id: UUID, caller: Caller, decide: Decide, expected_version: int | None
) -> list[RecordedEvent]:
    """Decide on the rulebook as it is and append; decide anew when somebody else was quicker."""
    if caller.workspace_id != workspace_id:
        raise OtherWorkspace("You act in another workspace; change its rules.", field="workspace_id")
    stream_id = rulebook_id(workspace_id)
    for attempt in range(1, TRIES + 1):
        history = load(stream_id)
        if not history:
            begin_rulebook(workspace_id=workspace_id)
            history = load(stream_id)
        if expected_version is not None and len(history) != expected_version:
            raise RulebookMoved(
                StreamMoved(
                    stream_id=stream_id, expected_version=expected_version, actual_version=len(history)
                )
            )
        try:
            # A savepoint, so that a conflict leaves the caller's transaction usable.
            with transaction.atomic():
                events = _naming(decide, rulebooks.fold(recorded.event for recorded in history))
                context = Context(workspace_id=workspace_id, actor=caller.actor)
                return append(Append(stream_id, len(history), events, context)) if events else []
        except StreamMoved as moved:
            if attempt == TRIES:
                raise RulebookMoved(moved) from None
    raise AssertionError("unreachable")


def _naming(decide: Decide, rulebook: Rulebook) -> list[Event]:
    """Decide; a refusal that tells who was quicker calls that person by name."""
    try:
        return decide(rulebook)
    except CartritaError as error:
        by = error.details.get("by")
        if by:
            error.message = error.message.replace(by, names_of([by])[by])
            error.args = (error.message,)
        raise


def _person(caller: Caller) -> str:
    """Name the person, also behind a token: with two ways of asking one is still one."""
    return f"user:{caller.user_id}"


def _lock(stream_id: UUID) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "select pg_advisory_xact_lock(%s, %s)",
            [_BEGIN_LOCK, int.from_bytes(stream_id.bytes[-4:], signed=True)],
        )
