"""What is in a text that should not go everywhere: secrets, personal data, orders to models. Pure."""

from governance.detectors.detection import detect, kinds_in, kinds_within
from governance.detectors.finding import Finding
from governance.detectors.kinds import KINDS, LABELS, labels_of
from governance.detectors.live import HOLD_BACK, Holdback, Piece
from governance.detectors.redaction import concerned, kept_within, redacted, redacted_within
from governance.detectors.version import detectors_version

__all__ = [
    "HOLD_BACK",
    "KINDS",
    "LABELS",
    "Finding",
    "Holdback",
    "Piece",
    "concerned",
    "detect",
    "detectors_version",
    "kept_within",
    "kinds_in",
    "kinds_within",
    "labels_of",
    "redacted",
    "redacted_within",
]
