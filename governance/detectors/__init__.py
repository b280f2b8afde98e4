"""What is in a text that should not go everywhere: secrets, personal data, orders to models. Pure."""

from governance.detectors.kinds import KINDS, LABELS, labels_of

__all__ = ["KINDS", "LABELS", "labels_of"]
