"""Whatever a network does to the frames, a client ends with the server's events and texts."""

import hashlib
import json
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cartrita.streaming import replica
from cartrita.streaming.replica import Replica, Step

CHANNEL = "session:1"
REPLAYED = 6
MESSAGES = st.integers(0, 2)


@dataclass
class Reached:
    """How far one connection of the model server has been sent the channel."""

    cursor: int
    texts: dict[str, tuple[int, int]] = field(default_factory=dict)


class ModelServer:
    """The server's side in its simplest form: a log, texts, and one connection."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.position = 0
        self.running: dict[str, tuple[int, str]] = {}
        self.done: dict[str, str] = {}
        self.attempts: dict[str, int] = {}
        self.reached: Reached | None = None
        self.number = 0

    def append(self, data: dict[str, Any], *, hidden_before: int) -> None:
        self.position += 1 + hidden_before
        self.events.append({"pos": self.position, "d": data})

    def complete(self, mid: str) -> None:
        _, text = self.running.pop(mid)
        self.done[mid] = text
        encoded = text.encode()
        digest = hashlib.sha256(encoded).hexdigest()
        self.append(
            {"completed": {"mid": mid, "bytes": len(encoded), "sha256": digest, "text": text}},
            hidden_before=0,
        )

    def take(self, frame: dict[str, Any]) -> list[dict[str, Any]]:
        match frame["t"]:
            case "sub":
                return [self.subscribe(frame)]
            case "fill" if self.reached is not None and frame["mid"] in self.running:
                attempt, text = self.running[frame["mid"]]
                if frame["from"] <= len(text.encode()):
                    self.reached.texts[frame["mid"]] = (attempt, frame["from"])
        return []

    def subscribe(self, frame: dict[str, Any]) -> dict[str, Any]:
        answer = {"t": "subbed", "id": frame["id"], "ch": CHANNEL, "recovered": True, "head": frame["cur"]}
        missed = None if frame["cur"] is None else [e for e in self.events if e["pos"] > frame["cur"]]
        if missed is None or len(missed) > REPLAYED:
            self.reached = Reached(self.position)
            return {**answer, "recovered": False, "head": self.position, "snapshot": dict(self.done)}
        have = {mid: (attempt, end) for mid, (attempt, end) in frame.get("have", {}).items()}
        self.reached = Reached(frame["cur"], have)
        return answer

    def due(self) -> list[dict[str, Any]]:
        if self.reached is None:
            return []
        frames = []
        for event in self.events:
            if event["pos"] > self.reached.cursor:
                frames.append({"t": "ev", "prev": self.reached.cursor, "ch": CHANNEL, **event})
                self.reached.cursor = event["pos"]
        for mid, (attempt, text) in self.running.items():
            sent_attempt, start = self.reached.texts.get(mid, (0, 0))
            start = start if sent_attempt == attempt else 0
            rest = text.encode()[start:]
            if rest:
                end = start + len(rest)
                frames.append(
                    {"t": "delta", "ch": CHANNEL, "mid": mid, "att": attempt, "off": start, "end": end}
                    | {"text": rest.decode()}
                )
                self.reached.texts[mid] = (attempt, end)
        for frame in frames:
            self.number += 1
            frame["f"] = self.number
        return frames

    def heartbeat(self) -> dict[str, Any]:
        heads = {} if self.reached is None else {CHANNEL: self.reached.cursor}
        return {"t": "hb", "heads": heads}


class CutDuplicatedReordered(RuleBasedStateMachine):
    """A network that cuts, loses, doubles and reorders frames between the model server and a client."""

    def __init__(self) -> None:
        super().__init__()
        self.server = ModelServer()
        self.wire: deque[dict[str, Any]] = deque()
        self.state = Replica()
        self.seen: list[int] = []
        self.base = 0
        self.shown: dict[str, str] = {}
        self.step(replica.wanted(self.state, CHANNEL, 0))
        self.step(replica.opened(self.state))

    def step(self, step: Step) -> None:
        self.state, effects = step
        for effect in effects:
            match effect["do"]:
                case "send":
                    self.wire.extend(self.server.take(json.loads(json.dumps(effect["frame"]))))
                case "event":
                    self.seen.append(effect["event"]["pos"])
                case "snapshot":
                    self.base, self.seen, self.shown = effect["head"], [], dict(effect["snapshot"])
                case "text":
                    self.shown[effect["mid"]] = effect["text"]
                case "corrupt":
                    raise AssertionError(effect)

    @rule(hidden=st.integers(0, 2))
    def post(self, hidden: int) -> None:
        self.server.append({}, hidden_before=hidden)

    @rule(message=MESSAGES, text=st.text("aä☕🌍", min_size=1, max_size=4))
    def write(self, message: int, text: str) -> None:
        mid = f"m{message}.{len(self.server.done)}"
        attempt, written = self.server.running.get(mid, (1, ""))
        self.server.running[mid] = (attempt, written + text)

    @rule(message=MESSAGES)
    def restart(self, message: int) -> None:
        for mid in list(self.server.running):
            if mid.startswith(f"m{message}."):
                self.server.running[mid] = (self.server.running[mid][0] + 1, "")

    @rule(message=MESSAGES)
    def complete(self, message: int) -> None:
        for mid in list(self.server.running):
            if mid.startswith(f"m{message}."):
                self.server.complete(mid)

    @rule()
    def send(self) -> None:
        self.wire.extend(self.server.due())

    @rule()
    def beat(self) -> None:
        self.wire.append(self.server.heartbeat())

    @rule(count=st.integers(1, 5))
    def deliver(self, count: int) -> None:
        for _ in range(min(count, len(self.wire))):
            self.step(replica.received(self.state, self.wire.popleft(), 10))

    @rule()
    def lose(self) -> None:
        if self.wire:
            self.wire.popleft()

    @rule()
    def double(self) -> None:
        if self.wire:
            self.wire.appendleft(self.wire[0])

    @rule()
    def reorder(self) -> None:
        self.wire.rotate(1)

    @rule()
    def cut(self) -> None:
        self.wire.clear()
        self.step(replica.closed(self.state))
        self.server.reached, self.server.number = None, 0
        self.step(replica.opened(self.state))

    @invariant()
    def shows_every_event_once_and_in_order(self) -> None:
        expected = [event["pos"] for event in self.server.events if event["pos"] > self.base]
        assert self.seen == expected[: len(self.seen)]

    def teardown(self) -> None:
        self.cut()
        while self.wire or (due := self.server.due()):
            if not self.wire:
                self.wire.extend(due)
            self.deliver(1)
        assert self.seen == [event["pos"] for event in self.server.events if event["pos"] > self.base]
        # A message that starts again stays as it was until the new attempt's first piece.
        begun_again = {mid for mid, (_, text) in self.server.running.items() if not text}
        running = {mid: text for mid, (_, text) in self.server.running.items() if text}
        shown = {mid: text for mid, text in self.shown.items() if mid not in begun_again}
        assert shown == self.server.done | running


CutDuplicatedReordered.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestEverythingArrives = CutDuplicatedReordered.TestCase
