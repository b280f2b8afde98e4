"""The catalog and the circuits in the admin: to read, not to change."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from cartrita.eventstore.admin import ReadOnlyAdmin
from cartrita.llm.models import Circuit, Model, Price


class ReadOnly:
    """Grants viewing and nothing else."""

    def has_add_permission(self, _request: HttpRequest, _obj: Any = None) -> bool:
        return False

    def has_change_permission(self, _request: HttpRequest, _obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, _request: HttpRequest, _obj: Any = None) -> bool:
        return False


class PriceInline(ReadOnly, admin.TabularInline):  # type: ignore[type-arg]  # subscripting fails at run time
    model = Price
    extra = 0
    fields = ("valid_from", "currency", "input_price", "cached_price", "output_price")


@admin.register(Model)
class ModelAdmin(ReadOnlyAdmin):
    """The models."""

    list_display = ("name", "provider", "tier", "quality_rank", "context_limit", "capabilities")
    list_filter = ("provider", "tier")
    search_fields = ("name",)
    inlines = (PriceInline,)


@admin.register(Circuit)
class CircuitAdmin(ReadOnlyAdmin):
    """The circuits."""

    list_display = ("model", "provider", "state", "failure", "until", "openings", "changed_at")
    list_filter = ("provider", "state")
    search_fields = ("model",)
