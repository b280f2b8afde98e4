"""What a client knows of its channels, and what it does about each frame: pure, the twin of stream.js.

Both are tested with the same golden frames. An action goes in; the new state and a tuple of effects come
out. Effects are plain dictionaries `{"do": ...}`: `send` a frame, show an `event`, a message's `text`, a
`snapshot`; a channel `ended`, or is to be asked for `again` `later`; a command's `answer`; the server's
`welcome` and `bye`; a text that is `corrupt`.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final

ACK_FRAMES: Final = 8
ACK_CHARACTERS: Final = 32 * 1024
RETRY_MS: Final = 1000
TOO_FAST: Final = 429
SERVER_FAILED: Final = 500

Effect = dict[str, Any]
_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class MessageText:
    """A message's text as far as it is known; `bytes` is the length of its UTF-8 form."""

    attempt: int
    text: str = ""
    bytes: int = 0
    done: bool = False
    filling: bool = False


@dataclass(frozen=True, slots=True)
class ChannelCopy:
    """A channel's copy: all its events up to `have` were shown (None: nothing yet, a snapshot is wanted)."""

    have: int | None = None
    sub_id: str = ""
    live: bool = False
    messages: Mapping[str, MessageText] = field(default_factory=lambda: _NOTHING)


@dataclass(frozen=True, slots=True)
class Replica:
    """All that the client knows; `number` and `acked` are those of the present connection.

    `epoch` is the server's, in which the positions held count; None before the first connection.
    """

    channels: Mapping[str, ChannelCopy] = field(default_factory=lambda: _NOTHING)
    connected: bool = False
    next_id: int = 1
    number: int = 0
    acked: int = 0
    characters: int = 0
    epoch: str | None = None


Step = tuple[Replica, tuple[Effect, ...]]


def opened(state: Replica) -> Step:
    """The connection stands: subscribe to every wanted channel after what is held."""
    state = replace(state, connected=True, number=0, acked=0, characters=0)
    effects: list[Effect] = []
    for name in state.channels:
        state, sent = _subscribe(state, name)
        effects += sent
    return state, tuple(effects)


def closed(state: Replica) -> Step:
    """The connection is gone; what is held stays."""
    channels = {name: replace(copy, live=False) for name, copy in state.channels.items()}
    return replace(state, connected=False, channels=channels), ()


def wanted(state: Replica, channel: str, after: int | None = None) -> Step:
    """Follow a channel after a position (None: from a snapshot)."""
    if channel in state.channels:
        return state, ()
    state = _with_channel(state, channel, ChannelCopy(have=after))
    return _subscribe(state, channel) if state.connected else (state, ())


def again(state: Replica, channel: str) -> Step:
    """Try once more to follow a channel, after the pause that `later` asked for."""
    copy = state.channels.get(channel)
    if copy is None or copy.live or not state.connected:
        return state, ()
    return _subscribe(state, channel)


def unwanted(state: Replica, channel: str) -> Step:
    """Follow a channel no longer."""
    if channel not in state.channels:
        return state, ()
    state = replace(state, channels={name: copy for name, copy in state.channels.items() if name != channel})
    if not state.connected:
        return state, ()
    return _send(state, {"t": "unsub", "id": f"s{state.next_id}", "ch": channel})


def received(state: Replica, frame: Mapping[str, Any], size: int = 0) -> Step:
    """Take in a frame of `size` characters; types that are not known are left alone."""
    state, effects = _take(state, frame)
    if "f" not in frame:
        return state, effects
    state = replace(state, number=max(state.number, int(frame["f"])), characters=state.characters + size)
    if state.number - state.acked < ACK_FRAMES and state.characters < ACK_CHARACTERS:
        return state, effects
    acknowledgement = {"do": "send", "frame": {"t": "ack", "f": state.number}}
    return replace(state, acked=state.number, characters=0), (*effects, acknowledgement)


def _take(state: Replica, frame: Mapping[str, Any]) -> Step:
    match frame.get("t"):
        case "ev":
            return _event(state, frame)
        case "delta":
            return _delta(state, frame)
        case "subbed":
            return _subbed(state, frame)
        case "unsubbed":
            if frame["ch"] not in state.channels:
                return state, ()
            kept = {name: copy for name, copy in state.channels.items() if name != frame["ch"]}
            return replace(state, channels=kept), (
                {"do": "ended", "ch": frame["ch"], "error": frame["error"]},
            )
        case "hb":
            return _heartbeat(state, frame)
        case "res":
            return _answer(state, frame)
        case "welcome":
            return _in_epoch(state, frame.get("epoch")), ({"do": "welcome", "frame": dict(frame)},)
        case "bye":
            return state, ({"do": "bye", "frame": dict(frame)},)
        case _:
            return state, ()


def _in_epoch(state: Replica, epoch: str | None) -> Replica:
    """Forget positions and texts of another epoch: the server was restored, and gives them anew.

    A log without events has no epoch yet: its name is empty, and no other one than its first.
    """
    if not epoch or epoch == state.epoch:
        return state
    if not state.epoch:
        return replace(state, epoch=epoch)
    channels = {name: replace(copy, have=None, messages=_NOTHING) for name, copy in state.channels.items()}
    return replace(state, epoch=epoch, channels=channels)


def _subscribe(state: Replica, channel: str) -> Step:
    copy = state.channels[channel]
    sub_id = f"s{state.next_id}"
    frame: dict[str, Any] = {"t": "sub", "id": sub_id, "ch": channel, "cur": copy.have}
    texts = {
        mid: [message.attempt, message.bytes] for mid, message in copy.messages.items() if not message.done
    }
    if texts:
        frame["have"] = texts
    state = _with_channel(state, channel, replace(copy, sub_id=sub_id, live=False))
    return _send(state, frame)


def _send(state: Replica, frame: dict[str, Any]) -> Step:
    return replace(state, next_id=state.next_id + 1), ({"do": "send", "frame": frame},)


def _subbed(state: Replica, frame: Mapping[str, Any]) -> Step:
    copy = state.channels.get(frame["ch"])
    if copy is None or copy.sub_id != frame["id"]:
        return state, ()
    if frame["recovered"]:
        return _with_channel(state, frame["ch"], replace(copy, live=True)), ()
    copy = replace(copy, live=True, have=frame["head"], messages=_NOTHING)
    shown = {"do": "snapshot", "ch": frame["ch"], "head": frame["head"], "snapshot": frame["snapshot"]}
    return _with_channel(state, frame["ch"], copy), (shown,)


def _answer(state: Replica, frame: Mapping[str, Any]) -> Step:
    name = next((name for name, copy in state.channels.items() if copy.sub_id == frame["id"]), None)
    if name is None or frame["ok"]:
        return state, ({"do": "answer", "frame": dict(frame)},)
    error = frame["error"]
    if error["status"] == TOO_FAST or error["status"] >= SERVER_FAILED:
        return state, ({"do": "later", "ch": name, "pause_ms": error.get("retry_ms", RETRY_MS)},)
    kept = {other: copy for other, copy in state.channels.items() if other != name}
    return replace(state, channels=kept), ({"do": "ended", "ch": name, "error": error},)


def _heartbeat(state: Replica, frame: Mapping[str, Any]) -> Step:
    effects: list[Effect] = [{"do": "send", "frame": {"t": "pong"}}]
    for name, head in frame["heads"].items():
        copy = state.channels.get(name)
        if copy is None or not copy.live:
            continue
        unfilled = {mid: replace(text, filling=False) for mid, text in copy.messages.items()}
        state = _with_channel(state, name, replace(copy, messages=unfilled))
        if copy.have is None or head > copy.have:
            state, sent = _subscribe(state, name)
            effects += sent
    return state, tuple(effects)


def _event(state: Replica, frame: Mapping[str, Any]) -> Step:
    name = frame["ch"]
    copy = state.channels.get(name)
    if copy is None or (copy.have is not None and frame["pos"] <= copy.have):
        return state, ()
    if copy.have is None or frame["prev"] > copy.have:
        # A gap: what is missing comes again after the position held. One request for it is enough.
        return _subscribe(state, name) if copy.live else (state, ())
    copy = replace(copy, have=frame["pos"])
    effects: list[Effect] = [{"do": "event", "ch": name, "event": dict(frame)}]
    completed = frame["d"].get("completed")
    if completed is not None:
        copy, healed = _complete(copy, name, completed)
        effects += healed
    return _with_channel(state, name, copy), tuple(effects)


def _complete(
    copy: ChannelCopy, channel: str, completed: Mapping[str, Any]
) -> tuple[ChannelCopy, list[Effect]]:
    mid, text = completed["mid"], completed["text"]
    encoded = text.encode()
    effects: list[Effect] = []
    if len(encoded) != completed["bytes"] or hashlib.sha256(encoded).hexdigest() != completed["sha256"]:
        effects.append({"do": "corrupt", "ch": channel, "mid": mid})
    known = copy.messages.get(mid)
    attempt = known.attempt if known else 0
    done = MessageText(attempt=attempt, text=text, bytes=len(encoded), done=True)
    effects.append(
        {
            "do": "text",
            "ch": channel,
            "mid": mid,
            "att": attempt,
            "text": text,
            "done": True,
            "healed": known is not None and known.text != text,
        }
    )
    return replace(copy, messages={**copy.messages, mid: done}), effects


def _delta(state: Replica, frame: Mapping[str, Any]) -> Step:
    name, mid = frame["ch"], frame["mid"]
    copy = state.channels.get(name)
    if copy is None:
        return state, ()
    known = copy.messages.get(mid)
    if known is not None and (known.done or frame["att"] < known.attempt):
        return state, ()
    restarted = known is None or frame["att"] > known.attempt
    message = MessageText(attempt=frame["att"]) if known is None or restarted else known
    effects: list[Effect] = []
    if frame["off"] > message.bytes:
        if not message.filling:
            fill = {"t": "fill", "ch": name, "mid": mid, "from": message.bytes}
            effects.append({"do": "send", "frame": fill})
        message = replace(message, filling=True)
    elif frame["end"] > message.bytes:
        # Pieces may overlap after a resume; both ends lie between characters, so the cut does too.
        fresh = frame["text"].encode()[message.bytes - frame["off"] :].decode()
        message = replace(message, text=message.text + fresh, bytes=frame["end"], filling=False)
        effects.append(_shown(name, mid, message))
    if restarted and known is not None and not message.text:
        # The screen starts this message again even before its first piece is there.
        effects.insert(0, _shown(name, mid, message))
    copy = replace(copy, messages={**copy.messages, mid: message})
    return _with_channel(state, name, copy), tuple(effects)


def _shown(channel: str, mid: str, message: MessageText) -> Effect:
    return {
        "do": "text",
        "ch": channel,
        "mid": mid,
        "att": message.attempt,
        "text": message.text,
        "done": False,
        "healed": False,
    }


def _with_channel(state: Replica, name: str, copy: ChannelCopy) -> Replica:
    return replace(state, channels={**state.channels, name: copy})
