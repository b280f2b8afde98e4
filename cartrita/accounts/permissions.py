"""Who may call a REST view."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request

from cartrita.accounts.authentication import caller
from cartrita.errors import NotAllowed

if TYPE_CHECKING:
    # DRF imports its default permissions while it defines APIView.
    from rest_framework.views import APIView


class ScopeMissing(NotAllowed):
    """The API token does not hold the scope that this needs."""

    code = "scope_missing"


class RoleMissing(NotAllowed):
    """The caller does not have a role that may do this."""

    code = "role_missing"


class MayCall(BasePermission):
    """Let members of a workspace in whose scopes allow the method: `read` for safe methods, else `write`.

    A view's `scopes` maps methods to other scopes; its `roles` are those of which the caller needs one.
    Raises NotSignedIn, NoWorkspace, ScopeMissing, RoleMissing.
    """

    def has_permission(self, request: Request, view: "APIView") -> bool:
        """Tell yes, or raise what says why not."""
        method = request.method or "GET"
        scopes: Mapping[str, str] = getattr(view, "scopes", {})
        require_scope(request, scopes.get(method, "read" if method in SAFE_METHODS else "write"))
        roles: frozenset[str] | None = getattr(view, "roles", None)
        if roles:
            require_role(request, roles)
        return True

    def has_object_permission(self, request: Request, view: "APIView", obj: Any) -> bool:
        """Leave objects to the queries: they know only what belongs to the caller's workspace."""
        del request, view, obj
        return True


def require_scope(request: Request, scope: str) -> None:
    """Raise ScopeMissing unless the caller holds `scope`, NotSignedIn unless somebody asks."""
    if scope not in caller(request).scopes:
        raise ScopeMissing(f"This needs an API token with the scope {scope!r}.", scope=scope)


def require_role(request: Request, roles: frozenset[str]) -> None:
    """Raise RoleMissing unless the caller has one of `roles`."""
    if not caller(request).roles & roles:
        raise RoleMissing(f"This needs one of the roles {', '.join(sorted(roles))}.", roles=sorted(roles))
