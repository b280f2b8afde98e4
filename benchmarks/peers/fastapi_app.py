"""FastAPI that sends the statements of a request of ours, from the JSON file STATEMENTS."""

import json
import os
import re
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

from fastapi import FastAPI
from psycopg_pool import AsyncConnectionPool
from pydantic import BaseModel

STATEMENTS = json.loads(Path(os.environ["STATEMENTS"]).read_text())
EVENT = """
    insert into raw_event (stream_id, version, event_id, type, schema_version, recorded_at, workspace_id,
                           session_id, causation_id, actor, trace_id, key_id, data)
    values (%s, 1, %s, 'MessagePosted', 1, now(), %s, %s, null, 'user', %s, %s, %s)
"""
pool = AsyncConnectionPool(os.environ["DATABASE_URL"], min_size=8, max_size=8, open=False)


class NewMessage(BaseModel):
    content: str


@asynccontextmanager
async def lifespan(_app):
    await pool.open(wait=True)
    yield
    await pool.close()


application = FastAPI(lifespan=lifespan)


@application.get("/read")
async def read():
    async with pool.connection() as connection:
        await connection.set_autocommit(True)
        rows = [await fetched(connection, statement) for statement in STATEMENTS]
        await connection.set_autocommit(False)
    return rows[3]


@application.post("/write", status_code=202)
async def write(message: NewMessage):  # noqa: ARG001 - read and checked
    cut = STATEMENTS.index("BEGIN")
    message_id = uuid4()
    async with pool.connection() as connection:
        await connection.set_autocommit(True)
        for statement in STATEMENTS[:cut]:
            if "$1" not in statement:
                await fetched(connection, statement)
        async with connection.transaction():
            for statement in STATEMENTS[cut + 1 :]:
                if statement.startswith("insert into event"):
                    new = [uuid4() for _ in range(6)]
                    await connection.execute(EVENT, [*new[:4], new[4].hex, new[5], b"x" * 300])
                elif statement.startswith('INSERT INTO "conversation_messages"'):
                    await connection.execute(under_new_ids(statement, message_id))
                elif statement.startswith("UPDATE"):
                    await connection.execute(statement)
        await connection.execute("notify cartrita_wake")
        await connection.set_autocommit(False)
    return {"messageId": message_id, "status": "queued"}


async def fetched(connection, statement):
    cursor = await connection.execute(statement.replace("%", "%%"))
    names = [column.name for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in await cursor.fetchall()]


def under_new_ids(statement, message_id):
    """Return the INSERT of a message with ids of its own: the row's, the message's (its fourth) and, as the
    place of a message in a session is there once, the session's (its second)."""
    values = iter(range(100))

    def new(found):
        number = next(values)
        return {0: f"'{uuid4()}'::uuid", 1: f"'{uuid4()}'::uuid", 3: f"'{message_id}'::uuid"}.get(
            number, found[0]
        )

    return re.sub(r"'[0-9a-f]{32}'::uuid", new, statement)
