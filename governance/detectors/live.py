"""Text that is shown while it is written: let out only what can be no part of something found later. Pure."""

import re
from dataclasses import dataclass

from governance.detectors.detection import detect, stand_ins

HOLD_BACK = 64
# A token may be longer: a word that is not over is held back as a whole, up to so many characters.
LONGEST_WORD = 4096
# Words before a number tell what it is.
_BEFORE = 256
_WORD = re.compile(f"[!-~\u00c0-\u024f{''.join(map(re.escape, sorted(stand_ins())))}]*\\Z")


@dataclass(frozen=True, slots=True)
class Piece:
    """What may go out now as far as it is known, and the kinds of what is found in it."""

    text: str
    kinds: frozenset[str] = frozenset()


class Holdback:
    """Gathers a text in pieces of any size; gives out what is 64 characters and a whole word old.

    Nothing of a key, a token or a number leaves before it is known for one, however the text is cut. Orders
    to models may be longer than what is held back: their first words may leave before.
    """

    def __init__(self) -> None:
        self._before = ""
        self._held = ""

    def add(self, text: str) -> Piece:
        """Take more text; return what may leave."""
        self._held += text
        return self._leave(self._old_enough())

    def rest(self) -> Piece:
        """Return all that is held back, when no more text comes."""
        return self._leave(len(self._held))

    def _old_enough(self) -> int:
        end = len(self._held) - HOLD_BACK
        if end <= 0:
            return 0
        word = _WORD.search(self._held, max(0, end - LONGEST_WORD), end)
        begins = end if word is None else word.start()
        return begins if end - begins < LONGEST_WORD else end

    def _leave(self, length: int) -> Piece:
        if length <= 0:
            return Piece("")
        begins = len(self._before)
        found = detect(self._before + self._held)
        kinds = frozenset(one.kind for one in found if one.end > begins and one.start < begins + length)
        leaving, self._held = self._held[:length], self._held[length:]
        self._before = (self._before + leaving)[-_BEFORE:]
        return Piece(leaving, kinds)
