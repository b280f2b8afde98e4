"""What one connection may send and receive: its window, its rates, its life signs.

Pure: time is an argument.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Self

from cartrita.streaming.protocol import (
    COMMANDS_BURST,
    COMMANDS_PER_SECOND,
    SILENCE_SECONDS,
    STALL_SECONDS,
    WINDOW_BYTES,
    WINDOW_FRAMES,
    MalformedFrame,
)


@dataclass(frozen=True, slots=True)
class Window:
    """Which frames are sent and not acknowledged: at most 32, or 256 KiB (the last may cross the line)."""

    next_number: int = 1
    unacknowledged: tuple[tuple[int, int], ...] = ()
    bytes: int = 0
    full_since: float | None = None

    @property
    def is_open(self) -> bool:
        """Return whether one more frame may be sent."""
        return len(self.unacknowledged) < WINDOW_FRAMES and self.bytes < WINDOW_BYTES

    def sent(self, size: int, *, at: float) -> Self:
        """Return the window after frame `next_number` of `size` bytes was sent."""
        after = replace(
            self,
            next_number=self.next_number + 1,
            unacknowledged=(*self.unacknowledged, (self.next_number, size)),
            bytes=self.bytes + size,
        )
        return after if after.is_open else replace(after, full_since=at)

    def acknowledged(self, number: int, *, at: float) -> Self:
        """Return the window after the client took in all frames up to `number`; an old number changes
        nothing.

        Raises MalformedFrame for a frame that was never sent.
        """
        if number >= self.next_number:
            raise MalformedFrame(
                f"Frame {number} was not sent yet; acknowledge the 'f' of a frame that arrived.", field="f"
            )
        rest = tuple(entry for entry in self.unacknowledged if entry[0] > number)
        if len(rest) == len(self.unacknowledged):
            return self
        after = replace(self, unacknowledged=rest, bytes=sum(size for _, size in rest))
        return replace(after, full_since=None if after.is_open else at)

    def stalled(self, *, at: float) -> bool:
        """Return whether the window was full for 30 s without any acknowledgement."""
        return self.full_since is not None and at - self.full_since >= STALL_SECONDS

    @property
    def stalls_at(self) -> float:
        """Return when it will be stalled if nothing is acknowledged; never, while it is open."""
        return math.inf if self.full_since is None else self.full_since + STALL_SECONDS


@dataclass(frozen=True, slots=True)
class Bucket:
    """A token bucket: `burst` at once, `rate` a second in the long run."""

    rate: float
    burst: int
    tokens: float
    filled_at: float

    @classmethod
    def full(cls, *, rate: float, burst: int, at: float) -> Self:
        """Return a bucket that holds its burst."""
        return cls(rate=rate, burst=burst, tokens=burst, filled_at=at)

    def take(self, *, at: float) -> tuple[Self, bool]:
        """Return the bucket afterwards and whether there was a token to take."""
        tokens = min(float(self.burst), self.tokens + max(0.0, at - self.filled_at) * self.rate)
        granted = tokens >= 1
        return replace(self, tokens=tokens - 1 if granted else tokens, filled_at=at), granted

    @property
    def wait(self) -> float:
        """Return in how many seconds after `filled_at` the next token is there."""
        return max(0.0, (1 - self.tokens) / self.rate)


@dataclass(frozen=True, slots=True)
class Flow:
    """All limits of one connection.

    `mistakes` allows 20 malformed frames, then one in 3 s; `oversized` three above the frame limit, then
    one in 20 s; `refusals` bounds how often a client is told that it is too fast. When one is empty the
    connection ends.
    """

    requests: Bucket
    mistakes: Bucket
    oversized: Bucket
    refusals: Bucket
    heard_at: float
    window: Window = field(default_factory=Window)

    @classmethod
    def begin(cls, *, at: float) -> Self:
        """Return the limits of a connection that begins now."""
        return cls(
            requests=Bucket.full(rate=COMMANDS_PER_SECOND, burst=COMMANDS_BURST, at=at),
            mistakes=Bucket.full(rate=1 / 3, burst=20, at=at),
            oversized=Bucket.full(rate=1 / 20, burst=3, at=at),
            refusals=Bucket.full(rate=1.0, burst=60, at=at),
            heard_at=at,
        )

    def heard(self, *, at: float) -> Self:
        """Return the state after any frame arrived."""
        return replace(self, heard_at=at)

    def sent(self, size: int, *, at: float) -> Self:
        """Return the state after a counted frame was sent."""
        return replace(self, window=self.window.sent(size, at=at))

    def acknowledged(self, number: int, *, at: float) -> Self:
        """Return the state after an acknowledgement. Raises MalformedFrame as Window does."""
        return replace(self, window=self.window.acknowledged(number, at=at))

    def requested(self, *, at: float) -> tuple[Self, bool]:
        """Return the state after a command or subscription, and whether it is within the rate."""
        requests, granted = self.requests.take(at=at)
        return replace(self, requests=requests), granted

    def refused(self, *, at: float) -> tuple[Self, bool]:
        """Return the state after telling the client that it is too fast, and whether it may go on."""
        refusals, granted = self.refusals.take(at=at)
        return replace(self, refusals=refusals), granted

    def mistaken(self, *, at: float) -> tuple[Self, bool]:
        """Return the state after a malformed frame, and whether the connection may go on."""
        mistakes, granted = self.mistakes.take(at=at)
        return replace(self, mistakes=mistakes), granted

    def exceeded(self, *, at: float) -> tuple[Self, bool]:
        """Return the state after a frame above the size limit, and whether the connection may go on."""
        oversized, granted = self.oversized.take(at=at)
        return replace(self, oversized=oversized), granted

    def silent(self, *, at: float) -> bool:
        """Return whether nothing arrived for 45 s."""
        return at - self.heard_at >= SILENCE_SECONDS

    @property
    def silent_at(self) -> float:
        """Return when the connection will be silent if nothing arrives."""
        return self.heard_at + SILENCE_SECONDS
