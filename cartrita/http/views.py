"""The base of every REST view."""

from functools import partial
from typing import Any

from django.http import HttpResponseBase
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from cartrita.http.conditional import failed_precondition, tagged
from cartrita.http.idempotency import HEADER, answer_once, require_key
from cartrita.http.throttles import Allowance, address_of, count_request


class ApiView(APIView):
    """A REST view: counted, with entity tags, and whose POST takes an Idempotency-Key.

    A view translates, makes one domain call, and translates back. `scopes` and `roles` are those of
    `cartrita.accounts.permissions.MayCall`; `body_limit` is in bytes. Where a POST only reads, its answer
    is not `kept`: asked again, it is what may be read then. One that does more, and tells what may be
    erased, has a method `again` with its parameters, which answers a repeated request.
    """

    kept = True

    # Requests are counted before it is known whether they may be answered.
    throttle_classes = ()
    allowance: Allowance | None = None

    def perform_authentication(self, request: Request) -> None:
        """Find out who asks, and count the request: whoever fails to say it well counts by address."""
        user_id = None
        try:
            super().perform_authentication(request)
            user_id = request.user.pk
        finally:
            self.allowance = count_request(user_id=user_id, address=address_of(request))
            self.allowance.require()

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Let the answer of a POST with a key be given once."""
        super().initial(request, *args, **kwargs)
        key = request.headers.get(HEADER)
        if request.method != "POST" or key is None:
            return
        require_key(key)
        if self.kept:
            handler = self.post  # type: ignore[has-type] # every subclass that takes POST has it

            def post(request: Request, *args: Any, **kwargs: Any) -> Any:
                again = getattr(self, "again", None)
                return answer_once(
                    request,
                    key,
                    partial(handler, request, *args, **kwargs),
                    again=partial(again, request, *args, **kwargs) if again is not None else None,
                )

            self.post = post

    def handle_exception(self, exc: Exception) -> Response:
        """Answer a failure; a stream that moved fails the precondition of a request that has one."""
        return super().handle_exception(failed_precondition(self.request, exc))

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        """Keep answers, which hold personal text and secrets, out of every cache, and say what is left."""
        answer: HttpResponseBase = super().finalize_response(request, response, *args, **kwargs)
        answer.setdefault("Cache-Control", "no-store")
        for name, value in (self.allowance.headers if self.allowance else {}).items():
            answer.setdefault(name, value)
        return tagged(request, answer)
