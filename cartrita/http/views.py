"""The base of every REST view."""

from functools import partial
from typing import Any

from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from cartrita.http.idempotency import HEADER, answer_once


class ApiView(APIView):
    """A REST view whose POST takes an Idempotency-Key.

    A view translates, makes one domain call, and translates back. `scopes` and `roles` are those of
    `cartrita.accounts.permissions.MayCall`; `body_limit` is in bytes.
    """

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Let the answer of a POST with a key be given once."""
        super().initial(request, *args, **kwargs)
        key = request.headers.get(HEADER)
        if request.method == "POST" and key is not None:
            handler = self.post  # type: ignore[has-type] # every subclass that takes POST has it

            def post(request: Request, *args: Any, **kwargs: Any) -> Any:
                return answer_once(request, key, partial(handler, request, *args, **kwargs))

            self.post = post

    def finalize_response(self, request: Request, response: Response, *args: Any, **kwargs: Any) -> Response:
        """Keep answers, which hold personal text and secrets, out of every cache."""
        answer = super().finalize_response(request, response, *args, **kwargs)
        answer.setdefault("Cache-Control", "no-store")
        return answer
