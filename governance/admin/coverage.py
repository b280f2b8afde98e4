"""The coverage of a workspace's rules in the admin: which of them never did anything."""

from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from typing import Any

from django import forms
from django.http import Http404, HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from cartrita.errors import BadInput
from governance.admin.pages import ConsolePage
from governance.queries.coverage import DEFAULT_SPAN, Coverage, RuleCoverage, coverage
from governance.rulebook import UnknownPolicy


class Range(forms.Form):
    """Over which days to look."""

    since = forms.DateField(label=gettext_lazy("From"), widget=forms.DateInput(attrs={"type": "date"}))
    until = forms.DateField(
        label=gettext_lazy("Up to and including"), widget=forms.DateInput(attrs={"type": "date"})
    )


def coverage_page(console: ConsolePage, request: HttpRequest) -> HttpResponse:
    """Show what the rules in force did in a range of days, 30 of them unless it says otherwise."""
    workspaces, workspace = console.workspaces(request), console.workspace(request)
    today = timezone.now().astimezone(UTC).date()
    given = request.GET if "since" in request.GET else None
    form = Range(given, initial={"since": today - DEFAULT_SPAN, "until": today}, auto_id="%s")
    errors: list[str] = []
    found: Coverage | None = None
    if given is None or form.is_valid():
        dates = form.cleaned_data if given is not None else form.initial
        try:
            found = coverage(
                workspace.pk,
                since=datetime.combine(dates["since"], time.min, UTC),
                until=datetime.combine(dates["until"], time.min, UTC) + timedelta(days=1),
                policy_hash=request.GET.get("hash") or None,
            )
        except UnknownPolicy:
            raise Http404 from None
        except (BadInput, OverflowError):
            errors.append(_("The first day lies before the last one, by at most a year."))
    context: dict[str, Any] = {
        "title": _("Coverage of the rules"),
        "workspaces": workspaces,
        "workspace": workspace,
        "form": form,
        "found": found,
        "hash": request.GET.get("hash", ""),
        "notes": [(each, list(notes(each))) for each in found.rules] if found else [],
        "errors": errors,
    }
    return console.page(
        request, "policyrule/coverage.html", context, status=400 if errors or form.errors else 200
    )


def notes(rule: RuleCoverage) -> Iterator[str]:
    """Yield what a reviewer should know about a rule, a sentence each."""
    for doubt in rule.doubts:
        yield _("Surely not meant: %(doubt)s") % {"doubt": doubt}
    if rule.never_hit:
        yield (
            _("Never hit, though acts that it is about came up.")
            if rule.evaluated
            else _("Never hit: nothing that it is about came up.")
        )
    if rule.erred:
        said = ngettext(
            "Could not be evaluated %(count)s time, which counts as deny.",
            "Could not be evaluated %(count)s times, which counts as deny.",
            rule.erred,
        )
        yield said % {"count": rule.erred}
    if rule.always_overridden:
        by = ", ".join(f"{name} ({count})" for name, count in rule.overridden_by.items())
        if rule.counts_anyway:
            yield _("Never the one to decide, and has its effect all the same; decided by %(by)s.") % {
                "by": by
            }
        else:
            yield _("Always overridden, by %(by)s.") % {"by": by}
    if rule.never_slowed:
        yield _("Never slowed anything.")
    if rule.approvals and rule.approvals.always_granted:
        said = ngettext(
            "Always approved: %(granted)s of %(requested)s request, within %(median)s. Is it needed?",
            "Always approved: %(granted)s of %(requested)s requests, half of them within %(median)s. "
            "Is it needed?",
            rule.approvals.requested,
        )
        yield said % {
            "granted": rule.approvals.granted,
            "requested": rule.approvals.requested,
            "median": spoken(rule.approvals.median_seconds),
        }
    if not rule.shown:
        yield _("No example shows it at work.")
    elif rule.lacks_examples:
        yield _("No example of its own shows where it does not hold.")


def spoken(seconds: float | None) -> str:
    """Return a time as people say it, in its largest whole unit."""
    if seconds is None:
        return "—"
    for size, unit in ((86_400, _("d")), (3600, _("h")), (60, _("min"))):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} {_('s')}"
