"""A real server on loopback, real frames, a real log."""

import asyncio
import contextlib
import hashlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from typing import Any, Self
from uuid import UUID, uuid4

import pytest
from websockets.exceptions import InvalidStatus

from cartrita.eventstore import close_async, new_id
from cartrita.streaming.client import ConnectionEnded, Refused, Stream
from cartrita.streaming.deltas import open_message
from cartrita.streaming.protocol import WINDOW_FRAMES
from tests.streaming.conftest import LiveServer, Raw, until
from tests.streaming.rooms import Expelled, Finished, House, Spoken, Thought, record

pytestmark = pytest.mark.flow


async def collect(stream: Stream, *, until_number: int) -> list[int]:
    """Return the numbers of the spoken events that a client shows, up to one of them."""
    numbers: list[int] = []
    async for update in stream:
        if update["do"] == "event" and "number" in update["event"]["d"]:
            numbers.append(update["event"]["d"]["number"])
            if numbers[-1] == until_number:
                return numbers
    raise AssertionError


async def finished_text(stream: Stream, message_id: UUID) -> str:
    async for update in stream:
        if update["do"] == "text" and update["mid"] == str(message_id) and update["done"]:
            return str(update["text"])
    raise AssertionError


async def speak(room: UUID, first: int, count: int = 1) -> None:
    await record(room, *(Spoken(number=first + n) for n in range(count)))


class TestSubscription:
    async def test_begins_with_a_snapshot_and_goes_on_with_events(self, server: LiveServer) -> None:
        room = new_id()
        await speak(room, 1, 3)
        async with server.raw() as raw:
            welcome = await raw.receive()
            assert (welcome["t"], welcome["status"], welcome["sessionId"]) == ("welcome", "connected", None)
            await until(lambda: server.hub.position >= 3)
            answer = await raw.ask(t="sub", id="a", ch=f"room:{room}")
            assert not answer["recovered"]
            assert answer["snapshot"] == {"spoken": 3, "last": 3}
            await speak(room, 4)
            event = await raw.receive("ev")
            assert event["d"] == {"number": 4}
            assert event["prev"] <= answer["head"] < event["pos"]
            assert event["corr"] == str(room)
            assert event["ver"] == 1

    async def test_shows_the_other_rooms_events_to_nobody(self, server: LiveServer) -> None:
        room, other = new_id(), new_id()
        async with server.stream() as stream:
            stream.subscribe(f"room:{room}", 0)
            await speak(other, 100)
            await record(room, Thought())
            await speak(room, 1)
            assert await collect(stream, until_number=1) == [1]

    async def test_follows_a_whole_workspace(self, server: LiveServer) -> None:
        async with server.stream() as stream:
            stream.subscribe("house:all", 0)
            await speak(new_id(), 1)
            await speak(new_id(), 2)
            assert await collect(stream, until_number=2) == [1, 2]

    async def test_sends_exactly_what_was_missed(self, server: LiveServer) -> None:
        room = new_id()
        async with server.raw() as raw:
            await raw.send(t="sub", id="a", ch=f"room:{room}", cur=0)
            await speak(room, 1, 5)
            events = [await raw.receive("ev") for _ in range(5)]
            assert [event["f"] for event in events] == [1, 2, 3, 4, 5]
        await record(room, Thought())
        await speak(room, 6, 60)
        async with server.raw() as raw:
            await raw.send(t="sub", id="a", ch=f"room:{room}", cur=events[2]["pos"])
            assert (await raw.receive("subbed"))["recovered"]
            previous, numbers = events[2]["pos"], []
            for _ in range(62):
                event = await raw.receive("ev")
                assert event["prev"] == previous
                previous = event["pos"]
                numbers.append(event["d"]["number"])
                await raw.send(t="ack", f=event["f"])
            assert numbers == list(range(4, 66))

    async def test_gives_a_snapshot_to_who_missed_more_than_500_events(self, server: LiveServer) -> None:
        room = new_id()
        await speak(room, 1, 501)
        async with server.raw() as raw:
            await raw.receive("welcome")
            await until(lambda: server.hub.position >= 501)
            answer = await raw.ask(t="sub", id="a", ch=f"room:{room}", cur=0)
            assert (answer["recovered"], answer["head"]) == (False, 501)
            assert answer["snapshot"] == {"spoken": 501, "last": 501}

    async def test_gives_a_snapshot_to_who_knows_a_log_that_is_not_this_one(self, server: LiveServer) -> None:
        async with server.raw() as raw:
            answer = await raw.ask(t="sub", id="a", ch=f"room:{new_id()}", cur=10**9)
            assert not answer["recovered"]

    async def test_is_resumed_by_the_client_after_each_cut(self, server: LiveServer) -> None:
        room = new_id()
        async with server.stream() as stream:
            stream.subscribe(f"room:{room}", 0)
            collecting = asyncio.create_task(collect(stream, until_number=60))
            for number in range(1, 61):
                await speak(room, number)
                if number % 20 == 0:
                    await until(lambda: bool(server.hub.members))
                    for member in list(server.hub.members):
                        member.give_up()  # type: ignore[attr-defined]
            assert await collecting == list(range(1, 61))

    async def test_ends_for_who_may_not_read_it(self, server: LiveServer, registered_rooms: House) -> None:
        room = new_id()
        registered_rooms.closed_rooms.add(str(room))
        async with server.raw() as raw:
            assert (await raw.ask(t="sub", id="a", ch=f"room:{room}"))["error"]["code"] == "unknown_channel"
            assert (await raw.ask(t="sub", id="b", ch="attic:1"))["error"]["field"] == "ch"

    async def test_ends_when_it_is_given_up(self, server: LiveServer) -> None:
        room = new_id()
        async with server.raw() as raw:
            assert (await raw.ask(t="sub", id="a", ch=f"room:{room}"))["t"] == "subbed"
            assert (await raw.ask(t="unsub", id="b", ch=f"room:{room}"))["ok"]
            assert not server.hub._channels


class TestText:
    async def test_arrives_while_it_is_written_and_is_confirmed_by_its_event(
        self, server: LiveServer
    ) -> None:
        room, message_id = new_id(), new_id()
        async with server.raw() as raw:
            await raw.send(t="sub", id="a", ch=f"room:{room}", cur=0)
            await raw.receive("subbed")
            async with open_message(room, message_id, 1) as writer:
                await writer.write("Grüße, ")
                first = await raw.receive("delta")
                assert (first["off"], first["end"], first["text"]) == (0, 9, "Grüße, ")
                await writer.write("🌍")
                second = await raw.receive("delta")
                assert (second["off"], second["end"], second["text"]) == (9, 13, "🌍")
                done = await writer.complete()
            await record(room, Finished(message_id=message_id, text="Grüße, 🌍"))
            completed = (await raw.receive("ev"))["d"]["completed"]
            assert (completed["bytes"], completed["sha256"]) == (done.bytes, done.sha256)
            assert done.sha256 == hashlib.sha256("Grüße, 🌍".encode()).hexdigest()

    async def test_arrives_from_another_process(self, server: LiveServer) -> None:
        room, message_id = new_id(), new_id()

        async def write_elsewhere() -> None:
            async with open_message(room, message_id, 1) as writer:
                for _ in range(50):
                    await writer.write("word ")
                    await asyncio.sleep(0.005)
                await writer.complete()
            await close_async()

        async with server.raw() as raw:
            await raw.send(t="sub", id="a", ch=f"room:{room}", cur=0)
            await raw.receive("subbed")
            writing = asyncio.create_task(asyncio.to_thread(asyncio.run, write_elsewhere()))
            text = ""
            while len(text) < 250:
                delta = await raw.receive("delta")
                assert delta["off"] == len(text)
                text += delta["text"]
                await raw.send(t="ack", f=delta["f"])
            await writing
            assert text == "word " * 50

    async def test_is_sent_again_from_where_a_client_asks(self, server: LiveServer) -> None:
        room, message_id = new_id(), new_id()
        async with server.raw() as raw, open_message(room, message_id, 1) as writer:
            await raw.send(t="sub", id="a", ch=f"room:{room}", cur=0)
            await raw.receive("subbed")
            await writer.write("aä🌍")
            await raw.receive("delta")
            # Byte 5 is inside the globe.
            await raw.send(t="fill", ch=f"room:{room}", mid=str(message_id), **{"from": 5})
            again = await raw.receive("delta")
            assert (again["off"], again["text"]) == (3, "🌍")

    async def test_goes_on_where_a_returning_client_left_off(self, server: LiveServer) -> None:
        room, message_id = new_id(), new_id()
        async with open_message(room, message_id, 1) as writer:
            await writer.write("first second")
            await writer.flush()
            async with server.raw() as raw:
                await raw.send(t="sub", id="a", ch=f"room:{room}", cur=0, have={str(message_id): [1, 6]})
                delta = await raw.receive("delta")
                assert (delta["off"], delta["text"]) == (6, "second")

    async def test_starts_again_with_the_next_attempt(self, server: LiveServer) -> None:
        room, message_id = new_id(), new_id()
        async with server.raw() as raw:
            await raw.send(t="sub", id="a", ch=f"room:{room}", cur=0)
            for attempt, text in ((1, "wrong"), (2, "right")):
                async with open_message(room, message_id, attempt) as writer:
                    await writer.write(text)
                    delta = await raw.receive("delta")
                    assert (delta["att"], delta["off"], delta["text"]) == (attempt, 0, text)

    async def test_of_100_kib_comes_in_pieces_of_16(self, server: LiveServer) -> None:
        room, message_id = new_id(), new_id()
        text = "ä🌍x" * 15_000
        async with server.raw() as raw, open_message(room, message_id, 1) as writer:
            await raw.send(t="sub", id="a", ch=f"room:{room}", cur=0)
            await raw.receive("subbed")
            await writer.write(text)
            received = ""
            while len(received) < len(text):
                delta = await raw.receive("delta")
                assert delta["end"] - delta["off"] <= 16 * 1024
                received += delta["text"]
                await raw.send(t="ack", f=delta["f"])
            assert received == text


class TestCommand:
    async def test_is_answered_and_carried_out_once(self, server: LiveServer) -> None:
        room, cid, visitor = new_id(), uuid4(), uuid4()
        async with server.stream(visitor) as stream:
            stream.subscribe(f"room:{room}", 0)
            for _ in range(2):
                answer = await stream.command(
                    "speak", {"first": 1, "count": 3}, channel=f"room:{room}", cid=cid
                )
                assert answer == {"spoken": 3, "by": str(visitor)}
            await stream.command("speak", {"first": 4, "count": 1}, channel=f"room:{room}")
            assert await collect(stream, until_number=4) == [1, 2, 3, 4]

    async def test_brings_back_why_it_was_refused(self, server: LiveServer) -> None:
        async with server.stream() as stream:
            with pytest.raises(Refused, match="faster") as refused:
                await stream.command("stumble", {"over": "conflict"}, expected_version=7)
            assert refused.value.error["code"] == "conflict"
            assert refused.value.details == {"actual_version": 7}
            with pytest.raises(Refused, match="no command"):
                await stream.command("fly")
            with pytest.raises(Refused, match="needs a channel 'room:<id>'") as refused:
                await stream.command("speak", channel="house:all")
            assert refused.value.field == "ch"

    async def test_leaves_the_connection_open_when_the_server_fails(
        self, server: LiveServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with server.raw() as raw:
            answer = await raw.ask(t="cmd", id="a", cid=str(uuid4()), name="stumble")
            assert (answer["error"]["code"], len(answer["error"]["trace"])) == ("internal", 32)
            assert "ZeroDivisionError" in caplog.text
            assert (await raw.ask(t="sub", id="b", ch=f"room:{new_id()}"))["t"] == "subbed"

    async def test_is_slowed_down_above_the_rate(self, server: LiveServer) -> None:
        room = new_id()
        async with server.raw() as raw:
            for number in range(75):
                await raw.send(t="unsub", id=str(number), ch=f"room:{room}")
            answers = [await raw.receive("res") for _ in range(75)]
            refused = [answer for answer in answers if not answer["ok"]]
            assert len(refused) >= 10
            assert {answer["error"]["code"] for answer in refused} == {"too_fast"}
            assert all(answer["error"]["retry_ms"] > 0 for answer in refused)

    async def test_is_sent_again_by_the_client_that_was_too_fast(self, server: LiveServer) -> None:
        room = new_id()
        async with server.stream() as stream:
            answers = await asyncio.gather(
                *(
                    stream.command("speak", {"first": n, "count": 1}, channel=f"room:{room}")
                    for n in range(30)
                )
            )
            assert len(answers) == 30


class TestSlowReader:
    async def test_is_sent_one_window_and_holds_up_nobody(self, server: LiveServer) -> None:
        room = new_id()
        async with server.raw() as slow, server.stream() as quick:
            await slow.send(t="sub", id="a", ch=f"room:{room}", cur=0)
            await slow.receive("subbed")
            quick.subscribe(f"room:{room}", 0)
            await speak(room, 1, 400)
            assert await collect(quick, until_number=400) == list(range(1, 401))
            frames = [await slow.receive("ev") for _ in range(WINDOW_FRAMES)]
            assert [frame["f"] for frame in frames] == list(range(1, WINDOW_FRAMES + 1))
            stalled = next(m for m in server.hub.members if not m._flow.window.is_open)  # type: ignore[attr-defined]
            # What it has not taken in is kept for it nowhere but in the log and the channel's tail.
            assert all(not sub._page for sub in stalled._subscriptions.values())  # type: ignore[attr-defined]
            # Most of it has left the channel's tail by now and comes from the log.
            for number in range(WINDOW_FRAMES + 1, 401):
                await slow.send(t="ack", f=number - 1)
                assert (await slow.receive("ev"))["d"]["number"] == number

    async def test_is_let_go_after_30_s(self, server: LiveServer) -> None:
        room = new_id()
        async with server.raw() as slow:
            await slow.send(t="sub", id="a", ch=f"room:{room}", cur=0)
            await slow.receive("subbed")
            await speak(room, 1, WINDOW_FRAMES)
            for _ in range(WINDOW_FRAMES):
                await slow.receive("ev")
            (member,) = server.hub.members
            member.tick(time.monotonic() + 31)
            assert (await slow.receive("bye"))["code"] == 4408
            assert (await slow.closed())[0] == 4408


class TestLife:
    async def test_shows_in_heartbeats_with_the_heads_of_channels(self, server: LiveServer) -> None:
        room = new_id()
        async with server.raw() as raw:
            await raw.send(t="sub", id="a", ch=f"room:{room}", cur=0)
            await speak(room, 1)
            event = await raw.receive("ev")
            (member,) = server.hub.members
            member.tick(time.monotonic() + 16)
            assert (await raw.receive("hb"))["heads"] == {f"room:{room}": event["pos"]}

    async def test_is_missed_after_45_s(self, server: LiveServer) -> None:
        async with server.raw() as raw:
            await raw.receive("welcome")
            (member,) = server.hub.members
            member.tick(time.monotonic() + 46)
            assert (await raw.receive("bye"))["code"] == 4408

    async def test_ends_with_a_request_to_come_back_when_the_server_restarts(
        self, server: LiveServer
    ) -> None:
        async with server.raw() as raw:
            await raw.receive("welcome")
            await server.hub.drain()
            bye = await raw.receive("bye")
            assert (bye["code"], (await raw.closed())[0]) == (4503, 4503)
            assert 200 <= bye["retry_ms"] <= 3000
            assert not server.hub.members


class TestAuthority:
    async def test_is_checked_again_at_once_when_an_event_says_so(
        self, server: LiveServer, registered_rooms: House
    ) -> None:
        room, visitor = new_id(), uuid4()
        async with server.raw(visitor) as raw, server.raw() as other:
            await raw.ask(t="sub", id="a", ch=f"room:{room}")
            await other.ask(t="sub", id="a", ch=f"room:{room}")
            registered_rooms.banned.add(visitor)
            await record(new_id(), Expelled(user_id=visitor))
            unsubbed = await raw.receive("unsubbed")
            assert (unsubbed["ch"], unsubbed["error"]["code"]) == (f"room:{room}", "not_allowed")
            await speak(room, 1)
            await other.receive("ev")
            registered_rooms.signed_out.add(visitor)
            await record(new_id(), Expelled(user_id=visitor))
            assert (await raw.receive())["code"] == 4401

    async def test_is_checked_again_every_minute(self, server: LiveServer, registered_rooms: House) -> None:
        visitor = uuid4()
        async with server.raw(visitor) as raw:
            await raw.receive("welcome")
            registered_rooms.signed_out.add(visitor)
            (member,) = server.hub.members
            member._flow = member._flow.heard(at=time.monotonic() + 60)  # type: ignore[attr-defined]
            member.tick(time.monotonic() + 61)
            assert (await raw.receive("bye"))["code"] == 4401


class TestHandshake:
    async def refusal(self, raw: Raw) -> int:
        bye = await raw.receive()
        assert bye["t"] == "bye"
        assert (await raw.closed())[0] == bye["code"]
        return int(bye["code"])

    async def test_takes_a_cookie_from_a_page_of_this_server(self, server: LiveServer) -> None:
        origin = f"http://127.0.0.1:{server.port}"
        async with server.raw(cookie=f"visitor={uuid4()}", origin=origin) as raw:
            assert (await raw.receive())["t"] == "welcome"
            assert raw.connection.subprotocol == "cartrita.v1"

    @pytest.mark.parametrize(
        "origin",
        [
            None,
            "null",
            "http://127.0.0.1",
            "http://127.0.0.1:1",
            "https://evil.example",
            "http://127.0.0.1.evil.example",
            "file://",
            "http://[",
        ],
    )
    async def test_refuses_a_cookie_from_any_other_page(self, server: LiveServer, origin: str | None) -> None:
        async with server.raw(cookie=f"visitor={uuid4()}", origin=origin) as raw:
            assert await self.refusal(raw) == 4403

    async def test_takes_a_cookie_from_a_trusted_page(self, server: LiveServer, settings: Any) -> None:
        settings.CSRF_TRUSTED_ORIGINS = ["https://chat.example", "https://*.pages.example"]
        for origin in settings.CSRF_TRUSTED_ORIGINS:
            page = origin.replace("*", "our")
            async with server.raw(cookie=f"visitor={uuid4()}", origin=page) as raw:
                assert (await raw.receive())["t"] == "welcome"

    async def test_refuses_a_host_that_is_not_ours(self, server: LiveServer, settings: Any) -> None:
        settings.ALLOWED_HOSTS = ["cartrita.example"]
        origin = f"http://127.0.0.1:{server.port}"
        async with server.raw(cookie=f"visitor={uuid4()}", origin=origin) as raw:
            assert await self.refusal(raw) == 4403

    async def test_refuses_a_ticket_from_a_foreign_page(self, server: LiveServer) -> None:
        async with server.raw(origin="https://evil.example") as raw:
            assert await self.refusal(raw) == 4403

    async def test_refuses_a_ticket_that_was_used(self, server: LiveServer) -> None:
        protocols = ["cartrita.v1", f"ticket.{uuid4()}.once"]
        async with server.raw(protocols=protocols) as raw:
            assert (await raw.receive())["t"] == "welcome"
        async with server.raw(protocols=protocols) as raw:
            assert await self.refusal(raw) == 4401

    async def test_refuses_who_is_not_signed_in(self, server: LiveServer) -> None:
        async with server.raw(protocols=[], origin=f"http://127.0.0.1:{server.port}") as raw:
            assert await self.refusal(raw) == 4401

    async def test_refuses_another_protocol(self, server: LiveServer) -> None:
        async with server.raw(protocols=["cartrita.v9"]) as raw:
            assert await self.refusal(raw) == 4426

    async def test_refuses_another_address(self, server: LiveServer) -> None:
        async with server.raw(path="s/elsewhere") as raw:
            assert await self.refusal(raw) == 4404

    async def test_takes_a_session_s_own_address(self, server: LiveServer, registered_rooms: House) -> None:
        session = new_id()
        async with server.raw(path=f"/{session}") as raw:
            assert (await raw.receive())["sessionId"] == str(session)
            registered_rooms.closed_rooms.add(str(session))
            for member in server.hub.members:
                member.recheck()
            assert await self.refusal(raw) == 4410
        async with server.raw(path=f"/{session}") as raw:
            assert await self.refusal(raw) == 4404

    async def test_refuses_an_eleventh_connection_of_a_user(self, server: LiveServer) -> None:
        visitor = uuid4()
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(10):
                raw = await stack.enter_async_context(server.raw(visitor))
                assert (await raw.receive())["t"] == "welcome"
            async with server.raw(visitor) as eleventh:
                assert await self.refusal(eleventh) == 4429
        await until(lambda: not server.hub.members)
        async with server.raw(visitor) as again:
            assert (await again.receive())["t"] == "welcome"

    async def test_is_refused_outright_after_30_failures_of_an_address(self, server: LiveServer) -> None:
        for _ in range(31):
            server.hub.handshake_failed("127.0.0.1")
        with pytest.raises(InvalidStatus):
            async with server.raw():
                pass

    async def test_ends_the_client_that_cannot_be_helped(self, server: LiveServer) -> None:
        async with Stream(server.url, first_pause=0.01) as stream:
            answer = asyncio.create_task(stream.command("speak"))
            with pytest.raises(ConnectionEnded) as ended:
                async for _ in stream:
                    pass
            assert ended.value.details == {"close": 4403}
            with pytest.raises(ConnectionEnded):
                await answer


class TestMistakes:
    @pytest.mark.parametrize(
        "text", ["{", "[]", '{"t":"dance","id":"x"}', '{"t":"ack","f":5}', b"\x00binary"]
    )
    async def test_are_answered_and_leave_the_connection_open(
        self, server: LiveServer, text: str | bytes
    ) -> None:
        async with server.raw() as raw:
            await raw.connection.send(text)
            assert (await raw.receive("res"))["error"]["code"] == "malformed_frame"
            assert (await raw.ask(t="sub", id="b", ch=f"room:{new_id()}"))["t"] == "subbed"

    async def test_end_the_connection_when_there_are_too_many(self, server: LiveServer) -> None:
        async with server.raw() as raw:
            for _ in range(21):
                await raw.connection.send("{")
            assert (await raw.receive("bye"))["code"] == 4400

    async def test_of_a_megabyte_are_answered_and_few_are_allowed(self, server: LiveServer) -> None:
        async with server.raw() as raw:
            for _ in range(4):
                await raw.connection.send("x" * 2**20)
                assert (await raw.receive("res", "bye"))["error"]["code"] == "frame_too_large"
            assert (await raw.receive("bye"))["code"] == 4413

    async def test_follow_at_most_64_channels(self, server: LiveServer) -> None:
        async with server.raw() as raw:
            (await raw.receive("welcome"))
            (member,) = server.hub.members
            member._subscriptions = {f"room:{n}": None for n in range(64)}  # type: ignore[attr-defined]
            try:
                answer = await raw.ask(t="sub", id="b", ch=f"room:{new_id()}")
            finally:
                member._subscriptions = {}  # type: ignore[attr-defined]
            assert answer["error"]["code"] == "too_many_channels"


class Process:
    """A server process on a given listening socket."""

    def __init__(self, command: list[str], listening: socket.socket) -> None:
        self.listening = listening
        self.command = command
        self.running = self.start()

    def start(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(self.command, pass_fds=[self.listening.fileno()], env=os.environ)

    def kill_and_restart(self) -> None:
        self.running.kill()
        self.running.wait()
        self.running = self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.running.send_signal(signal.SIGTERM)
        try:
            self.running.wait(10)
        except subprocess.TimeoutExpired:
            self.running.kill()
            self.running.wait()


def ticket_stream(listening: socket.socket) -> Stream:
    async def ticket() -> str:
        return f"{uuid4()}.{uuid4().hex}"

    return Stream(f"ws://127.0.0.1:{listening.getsockname()[1]}/ws", ticket=ticket, first_pause=0.1)


WORDS = [f"{number} wörter 🌍 " for number in range(120)]


@pytest.mark.chaos
class TestKilledServer:
    async def test_loses_no_event_and_no_word_and_says_bye_when_it_is_stopped(
        self, ordered_log: None, free_socket: socket.socket
    ) -> None:
        room, message_id = new_id(), new_id()
        command = [sys.executable, "-m", "tests.streaming.server", str(free_socket.fileno())]
        with Process(command, free_socket) as server:
            async with ticket_stream(free_socket) as stream, ticket_stream(free_socket) as speaker:
                draining = asyncio.create_task(drain(speaker))
                stream.subscribe(f"room:{room}", 0)

                async def dictate(attempt: int) -> dict[str, Any]:
                    return await speaker.command(
                        "dictate",
                        {
                            "message_id": str(message_id),
                            "attempt": attempt,
                            "words": WORDS,
                            "pause": 0.01,
                        },
                        channel=f"room:{room}",
                    )

                first = asyncio.create_task(dictate(1))
                finishing = asyncio.create_task(finished_text(stream, message_id))
                await until(lambda: len(stream.texts(f"room:{room}").get(str(message_id), "")) > 100)
                server.kill_and_restart()
                await speak(room, 1, 20)
                # The killed attempt's command comes again and is fenced off; its successor writes the text.
                with pytest.raises(Refused) as refused:
                    await first
                assert refused.value.error["code"] == "attempt_superseded"
                done = await dictate(2)
                text = await finishing
                assert text == "".join(WORDS)
                assert hashlib.sha256(text.encode()).hexdigest() == done["sha256"]
                assert stream.state.channels[f"room:{room}"].messages[str(message_id)].attempt == 2
                server.running.send_signal(signal.SIGTERM)
                async for update in stream:
                    if update["do"] == "status":
                        assert (update["status"], update["code"]) == ("waiting", 4503)
                        break
                draining.cancel()


@pytest.mark.chaos
class TestDaphne:
    async def test_serves_the_same_protocol(self, ordered_log: None, free_socket: socket.socket) -> None:
        room, message_id = new_id(), new_id()
        command = [
            *(sys.executable, "-m", "daphne", "--endpoint", f"fd:fileno={free_socket.fileno()}"),
            "tests.streaming.server:application",
        ]
        with Process(command, free_socket):
            async with ticket_stream(free_socket) as stream:
                stream.subscribe(f"room:{room}", 0)
                finishing = asyncio.create_task(finished_text(stream, message_id))
                await stream.command(
                    "dictate",
                    {"message_id": str(message_id), "attempt": 1, "words": WORDS[:20], "pause": 0},
                    channel=f"room:{room}",
                )
                assert await finishing == "".join(WORDS[:20])


async def drain(stream: Stream) -> None:
    async for update in stream:
        logging.getLogger(__name__).debug("%s", update)
