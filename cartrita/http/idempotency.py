"""`Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header): a repeated POST gets its first answer.

The act and its stored answer are one transaction: a request that failed or was cut off left nothing behind,
so its retry runs afresh; one that succeeded is never repeated.
"""

import hashlib
import hmac
import json
import os
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.conf import settings
from django.db import connection, transaction
from django.utils import timezone
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.encoders import JSONEncoder

from cartrita.errors import BadInput, CartritaError, Conflict
from cartrita.http.models import StoredAnswer

HEADER = "Idempotency-Key"
REPLAYED_HEADER = "Idempotency-Replayed"
KEPT_FOR = timedelta(hours=24)
KEY_LIMIT = 255
_LOCK_SPACE = 0x68747470  # "http", so that these advisory locks meet no other
_NONCE_BYTES = 12
_KEPT_HEADERS = ("Location", "ETag")


class IdempotencyKeyReused(CartritaError):
    """The key came before with another request."""

    code = "idempotency_key_reused"
    status = 422


class RequestInFlight(Conflict):
    """A request with the same key is being answered now."""

    code = "request_in_flight"


def answer_once(
    request: Request,
    key: str,
    handler: Callable[[], Response],
    *,
    again: Callable[[], Response] | None = None,
) -> Response:
    """Answer a POST that carries an Idempotency-Key: run `handler`, or give the answer that it gave before.

    Only answers below 400 are kept, for 24 hours, encrypted under the key. Where what they tell may be erased
    meanwhile, `again` tells it as it is then, and nothing but the act is kept. Raises RequestInFlight,
    IdempotencyKeyReused, and whatever the handler raises.
    """
    secret = _secret(request, key)
    row_id = hashlib.sha256(b"id" + secret).digest()
    fingerprint = hmac.digest(secret, _description(request), "sha256")
    cipher = AESGCM(hashlib.sha256(b"answer" + secret).digest())
    with transaction.atomic():
        _lock(row_id)
        stored = StoredAnswer.objects.filter(id=row_id, answered_at__gt=timezone.now() - KEPT_FOR).first()
        if stored is not None:
            if not hmac.compare_digest(bytes(stored.fingerprint), fingerprint):
                raise IdempotencyKeyReused(
                    "This key came before with another request; a new request needs a new key.", field=HEADER
                )
            if again is None:
                return _opened(cipher, bytes(stored.answer))
            response = again()
            response.headers[REPLAYED_HEADER] = "true"
            return response
        response = handler()
        if response.status_code < 400:
            StoredAnswer.objects.update_or_create(
                id=row_id,
                defaults={
                    "fingerprint": fingerprint,
                    "answer": _sealed(cipher, response) if again is None else b"",
                    "answered_at": timezone.now(),
                },
            )
        return response


def require_key(key: str) -> None:
    """Raise BadInput for what is no idempotency key."""
    if not 0 < len(key) <= KEY_LIMIT or not key.isascii() or not key.isprintable():
        raise BadInput(f"An idempotency key is 1 to {KEY_LIMIT} printable ASCII characters.", field=HEADER)


def delete_old_answers(*, now: datetime) -> int:
    """Delete answers above 24 hours of age; return how many."""
    deleted, _ = StoredAnswer.objects.filter(answered_at__lte=now - KEPT_FOR).delete()
    return deleted


def _secret(request: Request, key: str) -> bytes:
    """Return 32 bytes that only server and client together know, apart for each caller.

    Each token of a person is a caller: it may act elsewhere than another one, and be allowed less.
    """
    caller = f"{request.user.pk}|{getattr(request.auth, 'token_id', None) or ''}|{key}"
    return hmac.digest(settings.SECRET_KEY.encode(), b"cartrita.idempotency|" + caller.encode(), "sha256")


def _description(request: Request) -> bytes:
    """Describe what is asked: method, path, query, fields, and files by their hash."""
    fields: Any = request.data
    files: dict[str, list[str]] = {}
    if hasattr(fields, "lists"):
        files = {name: [_file_hash(file) for file in found] for name, found in request.FILES.lists()}
        fields = {name: values for name, values in fields.lists() if name not in files}
    asked = [request.method, request.get_full_path(), fields, files]
    return json.dumps(asked, sort_keys=True).encode()


def _file_hash(file: Any) -> str:
    digest = hashlib.sha256()
    for chunk in file.chunks():
        digest.update(chunk)
    file.seek(0)
    return f"{file.name}:{digest.hexdigest()}"


def _lock(row_id: bytes) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "select pg_try_advisory_xact_lock(%s, %s)",
            [_LOCK_SPACE, int.from_bytes(row_id[:4], signed=True)],
        )
        if not cursor.fetchone()[0]:
            raise RequestInFlight("A request with this key is being answered; try again soon.", field=HEADER)


def _sealed(cipher: AESGCM, response: Response) -> bytes:
    headers = {name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers}
    kept = {"status": response.status_code, "headers": headers, "data": response.data}
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + cipher.encrypt(nonce, json.dumps(kept, cls=JSONEncoder).encode(), None)


def _opened(cipher: AESGCM, answer: bytes) -> Response:
    kept = json.loads(cipher.decrypt(answer[:_NONCE_BYTES], answer[_NONCE_BYTES:], None))
    return Response(kept["data"], status=kept["status"], headers={**kept["headers"], REPLAYED_HEADER: "true"})
