"""The session as an aggregate: how a session's stream folds, and how its state is kept once it is long."""

from collections.abc import Sequence

import orjson

from cartrita.eventstore import RecordedEvent
from cartrita.eventstore.aggregates import Kept, aggregate
from sessions_app import session as sessions
from sessions_app.session import Session, SessionCreated


def _extend(session: Session, recorded: Sequence[RecordedEvent]) -> Session:
    return sessions.extend(session, ((each.event, each.recorded_at) for each in recorded))


SESSION = aggregate(
    "sessions_app.session",
    SessionCreated,
    fold=lambda recorded: _extend(Session(), recorded),
    kept=Kept(
        extend=_extend,
        dump=lambda session: orjson.dumps(sessions.as_kept(session)),
        restore=lambda content: sessions.from_kept(orjson.loads(content)),
        modules=("sessions_app.session",),
    ),
)
