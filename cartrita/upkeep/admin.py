"""A read-only page on how jobs ran; when they run is edited beside it, in Periodic tasks."""

from django.contrib import admin

from cartrita.eventstore.admin import ReadOnlyAdmin
from cartrita.upkeep.models import Job


@admin.register(Job)
class JobAdmin(ReadOnlyAdmin):
    """Jobs and their last runs."""

    list_display = (
        "name",
        "began_at",
        "went_well_at",
        "counted",
        "milliseconds",
        "failed_at",
        "failure",
        "runs",
        "failures",
    )
    list_filter = ("failed_at",)
