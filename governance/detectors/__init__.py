"""What is in a text that should not go everywhere: secrets, personal data, orders to models. Pure."""

from governance.detectors.detection import detect, kinds_in, kinds_within
from governance.detectors.finding import Finding
from governance.detectors.kinds import KINDS, LABELS, labels_of
from governance.detectors.live import HOLD_BACK, Holdback, Piece
from governance.detectors.redaction import concerned, redacted, redacted_within

__all__ = [
    "HOLD_BACK",
    "KINDS",
    "LABELS",
    "Finding",
    "Holdback",
    "Piece",
    "concerned",
    "detect",
    "kinds_in",
    "kinds_within",
    "labels_of",
    "redacted",
    "redacted_within",
]
