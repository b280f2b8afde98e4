"""Errors as answers."""

from typing import Any

import pytest
from django.core.exceptions import PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.db import OperationalError
from django.http import Http404
from django.test import Client, RequestFactory
from rest_framework import exceptions, serializers

from cartrita import errors
from cartrita.http.problems import ProblemMiddleware, answer_rest_error, problem_of


class TestProblemOf:
    def test_tells_code_field_and_details(self) -> None:
        members = problem_of(errors.TooLarge("Too long.", field="content", limit=5))
        assert members is not None
        assert len(members.pop("trace_id")) == 32
        assert members == {
            "type": "urn:cartrita:problem:too_large",
            "title": "Too large",
            "status": 413,
            "detail": "Too long.",
            "code": "too_large",
            "field": "content",
            "limit": 5,
        }

    def test_never_lets_details_replace_its_members(self) -> None:
        members = problem_of(errors.Conflict("Moved.", status=200, code="fine"))
        assert members is not None
        assert (members["status"], members["code"]) == (409, "conflict")

    def test_names_the_nested_field_that_a_serializer_refused(self) -> None:
        class Inner(serializers.Serializer[Any]):
            number = serializers.IntegerField()

        class Outer(serializers.Serializer[Any]):
            name = serializers.CharField()
            inner = Inner(many=True)

        wanted = Outer(data={"name": "x", "inner": [{"number": 1}, {"number": "y"}]})
        with pytest.raises(exceptions.ValidationError) as caught:
            wanted.is_valid(raise_exception=True)
        members = problem_of(caught.value)
        assert members is not None
        assert (members["status"], members["code"], members["field"]) == (400, "bad_input", "inner[1].number")

    @pytest.mark.parametrize("body", [[], "text", 5, None])
    def test_copes_with_bodies_that_are_no_objects(self, body: Any) -> None:
        class Wanted(serializers.Serializer[Any]):
            name = serializers.CharField()

        wanted = Wanted(data=body)
        with pytest.raises(exceptions.ValidationError) as caught:
            wanted.is_valid(raise_exception=True)
        members = problem_of(caught.value)
        assert members is not None
        assert members["detail"]

    @pytest.mark.parametrize(
        ("error", "status", "code"),
        [
            (exceptions.NotAuthenticated(), 401, "not_signed_in"),
            (exceptions.PermissionDenied(), 403, "not_allowed"),
            (exceptions.MethodNotAllowed("PUT"), 405, "method_not_allowed"),
            (exceptions.UnsupportedMediaType("text/plain"), 415, "unsupported_media_type"),
            (exceptions.NotAcceptable(), 406, "not_acceptable"),
            (Http404(), 404, "not_found"),
            (PermissionDenied(), 403, "not_allowed"),
            (RequestDataTooBig(), 413, "body_too_large"),
            (SuspiciousOperation("db.internal"), 400, "bad_input"),
            (OperationalError("host db.internal is down"), 503, "unavailable"),
        ],
    )
    def test_knows_the_failures_of_django_and_drf(self, error: Exception, status: int, code: str) -> None:
        members = problem_of(error)
        assert members is not None
        assert (members["status"], members["code"]) == (status, code)
        assert "db.internal" not in members["detail"]

    def test_leaves_what_nobody_foresaw_to_django(self) -> None:
        assert problem_of(ZeroDivisionError()) is None
        assert answer_rest_error(ZeroDivisionError(), {}) is None

    def test_says_when_to_come_back(self) -> None:
        response = answer_rest_error(OperationalError(), {})
        assert response is not None
        assert response.headers["Retry-After"] == "2"
        response = answer_rest_error(exceptions.Throttled(wait=7), {})
        assert response is not None
        assert response.headers["Retry-After"] == "7"


class TestProblemMiddleware:
    @pytest.mark.parametrize("path", ["/api/v2/nothing", "/api/v2/sessions/no-uuid", "/api/", "/healthy"])
    def test_answers_programs_with_a_problem(self, path: str) -> None:
        response = Client().get(path)
        assert (response.status_code, response.headers["Content-Type"]) == (404, "application/problem+json")
        assert response.json()["code"] == "not_found"

    def test_shows_people_a_page(self) -> None:
        response = Client().get("/no/such/page")
        assert response.status_code == 404
        assert response.headers["Content-Type"].startswith("text/html")

    def test_answers_500_without_telling_why(self) -> None:
        client = Client(raise_request_exception=False)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("cartrita.http.health.components", lambda: 1 / 0)
            response = client.get("/health")
        assert response.status_code == 500
        assert response.json()["code"] == "internal_server_error"
        assert "ZeroDivision" not in response.text

    def test_turns_a_foreseen_error_of_a_page_into_a_page(self) -> None:
        middleware = ProblemMiddleware(lambda request: pytest.fail(str(request)))
        request = RequestFactory().get("/document")
        page = middleware.process_exception(request, errors.TooLarge("Too long for us."))
        assert page is not None
        assert page.status_code == 413
        assert "Too long for us." in page.text

    def test_says_which_methods_a_route_takes(self) -> None:
        response = Client().post("/health")
        assert (response.status_code, response.json()["code"]) == (405, "method_not_allowed")
        assert response.headers["Allow"] == "GET, HEAD"
