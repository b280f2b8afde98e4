"""What detectors may find in a text: the kinds, and the labels that they give to who reads it."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

# Each kind with a sentence for people. The names are part of policies and of recorded decisions.
KINDS: Mapping[str, str] = MappingProxyType(
    {
        "secret": "A key, token or password that lets somebody in.",
        "private-key": "A private key, from its first line to its last.",
        "email": "An e-mail address.",
        "phone": "A phone number that exists by its country's numbering plan.",
        "card": "The number of a payment card, by issuer and check digit.",
        "iban": "An international bank account number, by country and check digits.",
        "ip": "A public IP address.",
        "national-id": "A person's number at a state (tax, insurance, identity), by its check digits.",
        "injection": "Words by which a text gives orders to the model that reads it.",
        "hidden": "Characters that hide text from people, or show it in another order than models read it.",
    }
)

PII = "pii"
SECRET = "secret"  # noqa: S105 # a label
INJECTION = "injection"

PERSONAL_KINDS = frozenset({"email", "phone", "card", "iban", "ip", "national-id"})
SECRET_KINDS = frozenset({"secret", "private-key"})
INJECTION_KINDS = frozenset({"injection", "hidden"})

LABELS = frozenset({PII, SECRET, INJECTION})


def labels_of(kinds: Iterable[str]) -> frozenset[str]:
    """Return the labels that a text with these findings gives to whoever reads it."""
    found = frozenset(kinds)
    labels = ((PII, PERSONAL_KINDS), (SECRET, SECRET_KINDS), (INJECTION, INJECTION_KINDS))
    return frozenset(label for label, given_by in labels if found & given_by)
