"""What an erased session takes with it: its attachments.

The session's own text is unreadable the moment its key is destroyed, in the command that erases it.
Attachments have keys of their own, and other apps own them; this reactor destroys those too. It looks at what
is left, not at what it was told, so a crash in between leaves nothing behind.
"""

import logging
from uuid import UUID

from cartrita.eventstore import in_database_thread
from retrieval.commands import erase_session_documents
from retrieval.queries import sessions_with_readable_attachments
from sessions_app.queries import erased_sessions

logger = logging.getLogger(__name__)


async def finish_erasures() -> int:
    """Erase what erased sessions have left; return how many sessions had anything left."""
    left = await in_database_thread(_sessions_left)
    for session_id, workspace_id in left:
        erased = await in_database_thread(
            erase_session_documents, session_id=session_id, workspace_id=workspace_id, actor="system"
        )
        logger.info("Erased %d documents of the erased session %s.", erased, session_id)
    return len(left)


def _sessions_left() -> list[tuple[UUID, UUID]]:
    erased = erased_sessions()
    readable = sessions_with_readable_attachments([session_id for session_id, _ in erased])
    return [(session_id, workspace_id) for session_id, workspace_id in erased if session_id in readable]
