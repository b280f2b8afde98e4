"""A small application of rooms in which people speak, registered as an app would, for tests of the socket."""

import asyncio
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import psycopg

from cartrita.errors import BadInput, Conflict, NotSignedIn
from cartrita.eventstore import Append, Context, Event, RecordedEvent, derived_id, new_id, recorder
from cartrita.eventstore.log import aread_log
from cartrita.streaming import deltas, registry
from cartrita.streaming.deltas import open_message
from cartrita.streaming.registry import CommandCall, Registrations, Scope

WORKSPACE = UUID("01936f3e-0000-7000-8000-0000000000aa")


class Spoken(Event):
    type_name = "streaming_tests.Spoken"

    number: int


class Thought(Event):
    """Happens in a room, is shown to nobody."""

    type_name = "streaming_tests.Thought"


class Finished(Event):
    type_name = "streaming_tests.Finished"

    message_id: UUID
    text: str


class Expelled(Event):
    type_name = "streaming_tests.Expelled"

    user_id: UUID


@dataclass
class Visitor:
    pk: UUID


@dataclass
class House:
    """What the door-keeper knows."""

    spent: set[str] = field(default_factory=set)
    banned: set[UUID] = field(default_factory=set)
    signed_out: set[UUID] = field(default_factory=set)
    closed_rooms: set[str] = field(default_factory=set)


house = House()


async def authenticate(scope: Scope, ticket: str | None) -> Visitor:
    if ticket is not None:
        if ticket in house.spent:
            raise NotSignedIn("The ticket was used; get a new one.")
        house.spent.add(ticket)
        return Visitor(UUID(ticket.split(".")[0]))
    visitor = scope["cookies"].get("visitor")
    if visitor is None:
        raise NotSignedIn("Sign in first.")
    return Visitor(UUID(visitor))


async def still_valid(user: Any, scope: Scope) -> bool:
    return user.pk not in house.signed_out


async def authorise(user: Any, room: str) -> bool:
    return user.pk not in house.banned and room not in house.closed_rooms


async def snapshot(room: str) -> dict[str, Any]:
    events = await aread_log(after=0, limit=5000, session_id=UUID(room))
    spoken = [recorded.event.number for recorded in events if isinstance(recorded.event, Spoken)]
    return {"spoken": len(spoken), "last": max(spoken, default=0)}


def describe(recorded: RecordedEvent) -> dict[str, Any] | None:
    match recorded.event:
        case Spoken(number=number):
            return {"number": number}
        case Finished(message_id=message_id, text=text):
            return {"completed": registry.completed(message_id, text)}
        case _:
            return None


def concerns(recorded: RecordedEvent) -> UUID | None:
    return recorded.event.user_id if isinstance(recorded.event, Expelled) else None


async def speak(call: CommandCall) -> dict[str, Any]:
    """Record as many events as asked for; the same call again records nothing more."""
    assert call.channel_id is not None
    first, count = call.args["first"], call.args["count"]
    await record(UUID(call.channel_id), *(Spoken(number=first + n) for n in range(count)), stream_id=call.cid)
    return {"spoken": count, "by": str(call.user.pk)}


async def dictate(call: CommandCall) -> dict[str, Any]:
    """Write a text word by word, then record it."""
    assert call.channel_id is not None
    message_id = UUID(call.args["message_id"])
    async with open_message(UUID(call.channel_id), message_id, call.args["attempt"]) as writer:
        for word in call.args["words"]:
            await writer.write(word)
            await asyncio.sleep(call.args["pause"])
        done = await writer.complete()
    finished = Finished(message_id=message_id, text="".join(call.args["words"]))
    await record(UUID(call.channel_id), finished, stream_id=message_id)
    await deltas.purge_message(message_id)
    return {"bytes": done.bytes, "sha256": done.sha256}


async def stumble(call: CommandCall) -> dict[str, Any]:
    match call.args.get("over"):
        case "conflict":
            raise Conflict("Somebody was faster.", field="exp_ver", actual_version=call.expected_version)
        case "input":
            raise BadInput("Say something else.", field="args.over")
        case "database":
            raise psycopg.OperationalError("gone")
        case _:
            raise ZeroDivisionError


async def record(room: UUID, *events: Event, stream_id: UUID | None = None) -> list[RecordedEvent]:
    stream = stream_id or new_id()
    return await recorder().record(
        Append(
            stream,
            0,
            events,
            Context(workspace_id=WORKSPACE, session_id=room),
            event_ids=[derived_id(stream, str(number)) for number in range(len(events))],
        )
    )


REGISTRATIONS = Registrations(
    kinds={
        kind: registry.ChannelKind(
            kind=kind,
            authorise=authorise,
            feed=lambda room: {"session_id": UUID(room)},
            snapshot=snapshot,
            describe=describe,
            deltas=True,
        )
        for kind in ("room", "session")
    }
    | {
        "house": registry.ChannelKind(
            kind="house",
            authorise=authorise,
            feed=lambda _: {"workspace_id": WORKSPACE},
            snapshot=snapshot,
            describe=describe,
            deltas=False,
        )
    },
    commands={
        name: registry.SocketCommand(name=name, handler=handler, kind=kind)
        for name, handler, kind in (
            ("speak", speak, "room"),
            ("dictate", dictate, "room"),
            ("stumble", stumble, None),
        )
    },
    authentication=(registry.Authentication(authenticate, still_valid),),
    rechecks=(concerns,),
)
