"""What the processes under the supervisor have in common."""

import ctypes
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

logger = logging.getLogger(__name__)

LIFELINE = "CARTRITA_LIFELINE"
REPORT = "CARTRITA_REPORT"


def follow_supervisor(stop: Callable[[], None]) -> None:
    """Call `stop` (from a thread) when the supervisor is gone, however it ended.

    The lifeline is a pipe whose other end only the supervisor holds: it ends with it, on every system.
    """
    descriptor = os.environ.pop(LIFELINE, "")
    if not descriptor:
        return

    def wait() -> None:
        os.read(int(descriptor), 1)
        logger.warning("The supervisor is gone; this process stops.")
        stop()

    threading.Thread(target=wait, name="lifeline", daemon=True).start()


def report(**facts: Any) -> None:
    """Tell the supervisor that this process is ready, with what it shall print; once."""
    descriptor = os.environ.pop(REPORT, "")
    if descriptor:
        with os.fdopen(int(descriptor), "w", encoding="utf-8") as pipe:
            json.dump(facts, pipe)


def terminate_self() -> None:
    """Let this process's own handler of SIGTERM stop it."""
    os.kill(os.getpid(), signal.SIGTERM)


def name_process(name: str) -> None:
    """Show a name in `top` and `ps -e` (Linux), at most 15 bytes."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(15, name.encode()[:15], 0, 0, 0)
