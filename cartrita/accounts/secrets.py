"""Random secrets that programs and people show, of which only hashes are kept."""

import hashlib
import secrets

SECRET_BYTES = 32
TOKEN_PREFIX = "crt_"  # noqa: S105 # lets people and scanners recognise a leaked token


def new_secret(prefix: str = "") -> str:
    """Return a new secret of 256 random bits in URL-safe text."""
    return prefix + secrets.token_urlsafe(SECRET_BYTES)


def secret_hash(secret: str) -> str:
    """Return the SHA-256 of a secret in hexadecimal; 256 random bits need no slow hash."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
