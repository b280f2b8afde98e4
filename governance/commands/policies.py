"""What people and the start of the system may do with policies."""

from uuid import UUID

from django.conf import settings
from django.db import connection, transaction

from cartrita.eventstore import Append, Context, append, derived_id, load, put_blob
from governance import rulebook as rulebooks
from governance.policy_store import policy_of_file
from governance.rulebook import rulebook_id

_BEGIN_LOCK = 0x72756C65  # "rule", so that these advisory locks meet no other


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


def _lock(stream_id: UUID) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "select pg_advisory_xact_lock(%s, %s)",
            [_BEGIN_LOCK, int.from_bytes(stream_id.bytes[-4:], signed=True)],
        )
