"""What commands that look into the log share: their arguments, and how they end."""

import argparse
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import FrameType
from typing import NoReturn
from uuid import UUID

from django.core.management.base import CommandError

from cartrita.errors import CartritaError


def an_id(text: str) -> UUID:
    """Return the UUID that an argument is."""
    try:
        return UUID(text.strip())
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no id: give a UUID such as 01936f3e-0000-7000-8000-000000000001"
        ) from None


def a_time(text: str) -> datetime:
    """Return the time that an argument is; without a zone it is UTC."""
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time: give one such as 2026-01-31T09:00:00Z"
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def a_position(text: str) -> int:
    """Return the position that an argument is."""
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise argparse.ArgumentTypeError(f"{text!r} is no position: give a whole number such as 1234")
    return int(text)


def a_position_or_time(text: str) -> int | datetime:
    """Return the position or the time that an argument is."""
    if text.isascii() and text.isdigit() and len(text) < 18:
        return int(text)
    try:
        return a_time(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a position such as 1234 nor a time such as 2026-01-31T09:00:00Z"
        ) from None


@contextmanager
def told_plainly() -> Iterator[None]:
    """Let a foreseen failure be a message, and a signal, or an output that nobody reads, be the end."""

    def stop(_number: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    # Signals are the main thread's.
    ours = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, stop) if ours else None
    try:
        yield
        sys.stdout.flush()
    except CartritaError as error:
        field = f"{error.field}: " if error.field else ""
        raise CommandError(f"{field}{error.message}", returncode=error.exit_code) from error
    except KeyboardInterrupt:
        return
    except BrokenPipeError:
        # Python would fail once more when it flushes the output at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    finally:
        if ours:
            signal.signal(signal.SIGTERM, before)


@contextmanager
def asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Let the first signal be a wish, asked for between two pieces of work; a second one is the end.

    An exception out of a signal may come where Python can do nothing but drop it, and the signal with it.
    """
    asked = threading.Event()

    def ask(_number: int, _frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    ours = threading.current_thread() is threading.main_thread()
    before = {one: signal.signal(one, ask) for one in (signal.SIGINT, signal.SIGTERM) if ours}
    try:
        yield asked.is_set
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def check_reader() -> None:
    """Raise BrokenPipeError when nobody reads the output any more, although nothing is written now."""
    if not hasattr(select, "poll"):
        return
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):
        return
    poll = select.poll()
    poll.register(descriptor, 0)
    if any(state & (select.POLLERR | select.POLLHUP) for _, state in poll.poll(0)):
        raise BrokenPipeError
