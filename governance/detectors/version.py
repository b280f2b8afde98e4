"""Which detectors looked at a text: our rules and the libraries that they rest on."""

import unicodedata
from functools import lru_cache
from importlib.metadata import version

# Raised with every change after which some text may have other findings: of a pattern, a check, a bound, a
# kind, or of what is looked at in a JSON value.
RULES = 3
_LIBRARIES = ("detect-secrets", "email-validator", "google-re2", "phonenumberslite", "python-stdnum")


@lru_cache(maxsize=1)
def detectors_version() -> str:
    """Return the number of our rules and the versions of what they use, as decisions record it."""
    used = [f"{name} {version(name)}" for name in _LIBRARIES]
    return ", ".join([f"rules {RULES}", *used, f"unicode {unicodedata.unidata_version}"])
