"""`{% break_glass_in_force as break_glass %}`: what each page of the console says of break-glass."""

from typing import Any

from django import template

from cartrita.accounts.console import workspaces_for
from governance.admin.pages import break_glass_notices

register = template.Library()


@register.simple_tag(takes_context=True)
def break_glass_in_force(context: template.Context) -> list[dict[str, Any]]:
    """Return the break-glass that is in force in the workspaces that the person looks after."""
    user: Any = context["request"].user
    if not (user.is_authenticated and user.is_staff):
        return []
    return break_glass_notices(each.pk for each in workspaces_for(user))
