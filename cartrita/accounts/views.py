"""Signing in and out in a browser, on Django's stock sessions."""

from uuid import UUID

from django import forms
from django.conf import settings
from django.contrib.auth import login, logout
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect, render, resolve_url
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.utils.http import url_has_allowed_host_and_scheme
from django.views import View
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_POST, require_safe

from cartrita.accounts import commands
from cartrita.accounts.models import User
from cartrita.accounts.queries import workspace_of
from cartrita.accounts.sign_in import By, LinkEnded, TooManyAttempts, WrongCredentials
from cartrita.errors import CartritaError

SIGN_IN_ID = "sign_in_id"


class SignInForm(forms.Form):
    """Address and password. Django refuses NUL characters here."""

    email = forms.CharField(max_length=254)
    password = forms.CharField(max_length=4096, strip=False)


@method_decorator([never_cache, sensitive_post_parameters("password")], name="dispatch")
class SignIn(View):
    """The sign-in page."""

    def get(self, request: HttpRequest) -> HttpResponse:
        """Show the form, or go on where somebody is signed in already."""
        if request.user.is_authenticated:
            return HttpResponseRedirect(_next(request))
        return _page(request, SignInForm())

    def post(self, request: HttpRequest) -> HttpResponse:
        """Sign in with address and password."""
        form = SignInForm(request.POST)
        if not form.is_valid():
            return _page(request, form, WrongCredentials("Fill in address and password."))
        try:
            user = commands.check_credentials(
                email=form.cleaned_data["email"],
                password=form.cleaned_data["password"],
                address=request.META.get("REMOTE_ADDR") or "",
                now=timezone.now(),
            )
            _sign_in(request, user, by="password")
        except CartritaError as error:
            return _page(request, form, error)
        return HttpResponseRedirect(_next(request))


@never_cache
@require_safe
def sign_in_by_link(request: HttpRequest, secret: str) -> HttpResponse:
    """Sign in by a single-use link."""
    # Browsers that fetch ahead must not use the link up.
    if request.method == "HEAD" or "prefetch" in request.headers.get("Sec-Purpose", ""):
        return HttpResponse(status=204)
    try:
        user = commands.redeem_sign_in_link(secret, now=timezone.now())
        _sign_in(request, user, by="link")
    except CartritaError as error:
        return _page(request, SignInForm(), error)
    return HttpResponseRedirect(_next(request))


@never_cache
@require_POST
def sign_out(request: HttpRequest) -> HttpResponse:
    """End this sign-in; its sockets end too."""
    sign_in_id = request.session.get(SIGN_IN_ID)
    logout(request)
    if sign_in_id is not None:
        commands.record_sign_out(sign_in_id=UUID(sign_in_id))
    return redirect(settings.LOGOUT_REDIRECT_URL)


@never_cache
def console_sign_in(request: HttpRequest) -> HttpResponse:
    """Send whoever wants to enter the governance console to the sign-in page. Raises PermissionDenied."""
    if request.user.is_authenticated and not request.user.is_staff:
        raise PermissionDenied
    return redirect_to_login(_wanted(request) or resolve_url("admin:index"))


def _sign_in(request: HttpRequest, user: User, *, by: By) -> None:
    sign_in_id = commands.record_sign_in(user_id=user.pk, workspace_id=workspace_of(user), by=by)
    login(request, user, backend="django.contrib.auth.backends.ModelBackend")
    request.session[SIGN_IN_ID] = str(sign_in_id)


def _page(request: HttpRequest, form: SignInForm, error: CartritaError | None = None) -> HttpResponse:
    status = error.status if error else 200
    response = render(
        request,
        "accounts/sign_in.html",
        {"form": form, "next": _wanted(request), "problem": error.message if error else ""},
        # A browser shows the page of a 401 only together with a challenge that it knows.
        status=400 if isinstance(error, WrongCredentials | LinkEnded) else status,
    )
    if isinstance(error, TooManyAttempts):
        response.headers["Retry-After"] = str(error.details["retry_after"])
    return response


def _wanted(request: HttpRequest) -> str:
    wanted = request.POST.get("next") or request.GET.get("next") or ""
    allowed = url_has_allowed_host_and_scheme(
        wanted, allowed_hosts={request.get_host()}, require_https=request.is_secure()
    )
    return wanted if allowed else ""


def _next(request: HttpRequest) -> str:
    return _wanted(request) or resolve_url(settings.LOGIN_REDIRECT_URL)
