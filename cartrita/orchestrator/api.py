"""REST: the agents, models and tools there are, how they do, and how an answer came about."""

from collections.abc import Mapping
from dataclasses import asdict
from operator import attrgetter
from typing import Any, get_args
from uuid import UUID

from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from cartrita.accounts.authentication import caller
from cartrita.errors import BadInput
from cartrita.http.pagination import PAGE_PARAMETERS, page_of_all, page_parameters
from cartrita.http.views import ApiView
from cartrita.llm import catalog
from cartrita.llm.catalog import ModelEntry
from cartrita.llm.circuit import State
from cartrita.orchestrator.agents import Agent, Autonomy, agent, all_agents
from cartrita.orchestrator.availability import CLOSED, CircuitState, availability, circuit_states
from cartrita.orchestrator.trace import trace
from cartrita.tools.registry import Safety, Tool, all_tools, tool
from tasks_app.capabilities import AgentRecord, Capability, agent_record, capability_index

CIRCUIT_STATES = list(get_args(State))
SAFETY_LEVELS = list(get_args(Safety))


class AgentHealth(serializers.Serializer[Any]):
    """How an agent's runs of the last 30 days in the workspace did; medians of those that answered."""

    runs = serializers.IntegerField()
    success_rate = serializers.FloatField(help_text="From 0 to 1.")
    p50_latency_ms = serializers.IntegerField(allow_null=True)
    p50_tokens = serializers.IntegerField(allow_null=True)


class AgentEntry(serializers.Serializer[Any]):
    """An agent: what it is for, what it needs, and whether it can work here."""

    name = serializers.CharField()
    version = serializers.IntegerField()
    purpose = serializers.CharField()
    tools = serializers.ListField(child=serializers.CharField())
    tier = serializers.CharField(allow_null=True, help_text="Of its model; null: the default model.")
    needs = serializers.ListField(child=serializers.CharField(), help_text="What its model must be able to.")
    autonomy = serializers.ChoiceField(choices=get_args(Autonomy))
    skill = serializers.CharField(allow_blank=True, help_text="Empty: that of its model.")
    examples = serializers.ListField(child=serializers.CharField())
    model = serializers.CharField(allow_null=True, help_text="The model that it asks; null: none.")
    available = serializers.BooleanField()
    why_not = serializers.CharField(allow_blank=True)
    only = serializers.CharField(
        allow_blank=True, help_text="What is missing where it can do a part of its work alone, by rules."
    )
    circuit = serializers.ChoiceField(choices=CIRCUIT_STATES, help_text="Of its model.")
    health = AgentHealth(allow_null=True, help_text="Null: no runs in the last 30 days.")


class AgentPage(serializers.Serializer[Any]):
    """Agents by name."""

    items = AgentEntry(many=True)
    next_cursor = serializers.CharField(allow_null=True)


class PriceEntry(serializers.Serializer[Any]):
    """Micro-units of `currency` per million tokens, from `valid_from` on."""

    valid_from = serializers.DateTimeField()
    currency = serializers.CharField()
    input_price = serializers.IntegerField()
    cached_price = serializers.IntegerField()
    output_price = serializers.IntegerField()


class CircuitEntry(serializers.Serializer[Any]):
    """Whether the model is called now: `closed`, it is; `open`, it is not until `until`."""

    state = serializers.ChoiceField(choices=CIRCUIT_STATES)
    until = serializers.DateTimeField(allow_null=True)
    failure = serializers.CharField(allow_blank=True)


class CatalogModel(serializers.Serializer[Any]):
    """A model; limits are in tokens, a lower `quality_rank` is better."""

    name = serializers.CharField()
    provider = serializers.CharField()
    tier = serializers.ChoiceField(choices=catalog.TIERS)
    quality_rank = serializers.IntegerField()
    context_limit = serializers.IntegerField()
    output_limit = serializers.IntegerField()
    capabilities = serializers.ListField(child=serializers.CharField())
    configured = serializers.BooleanField(help_text="Whether what it needs to be called is set.")
    price = PriceEntry()
    circuit = CircuitEntry()


class ModelPage(serializers.Serializer[Any]):
    """Models by name."""

    items = CatalogModel(many=True)
    next_cursor = serializers.CharField(allow_null=True)


class CapabilityEntry(serializers.Serializer[Any]):
    """How a tool's definition did in the workspace in the last 30 days; null: nobody knows."""

    version = serializers.CharField()
    call_count_30d = serializers.IntegerField()
    success_rate_30d = serializers.FloatField(allow_null=True)
    avg_latency_ms = serializers.FloatField(allow_null=True)
    avg_cost_tokens = serializers.FloatField(allow_null=True)
    last_updated = serializers.DateTimeField(allow_null=True)
    last_success = serializers.DateTimeField(allow_null=True)
    last_failure = serializers.DateTimeField(allow_null=True)


class ToolEntry(serializers.Serializer[Any]):
    """A tool; `definition_hash` is what people approve when they approve it."""

    name = serializers.CharField()
    description = serializers.CharField()
    category = serializers.CharField()
    safety_level = serializers.ChoiceField(choices=SAFETY_LEVELS)
    idempotent = serializers.BooleanField()
    timeout_seconds = serializers.FloatField()
    cost_tokens = serializers.IntegerField(help_text="What a call costs at most.")
    result_limit_bytes = serializers.IntegerField()
    decided_as = serializers.CharField()
    definition_hash = serializers.CharField()
    parameters_schema = serializers.DictField(help_text="JSON Schema of the arguments.")
    returns_schema = serializers.DictField(help_text="JSON Schema of the result.")
    capability = CapabilityEntry(allow_null=True)


class ToolPage(serializers.Serializer[Any]):
    """Tools by name."""

    items = ToolEntry(many=True)
    next_cursor = serializers.CharField(allow_null=True)


class TraceEntry(serializers.Serializer[Any]):
    """An event on the way to an answer, in words; what does not apply is null."""

    position = serializers.IntegerField()
    at = serializers.DateTimeField()
    event = serializers.CharField()
    actor = serializers.CharField()
    message_id = serializers.UUIDField()
    words = serializers.CharField()
    named = serializers.BooleanField(help_text="Whether it is of the run, decision or approval asked for.")
    trace_id = serializers.CharField(help_text="Names its trace at a receiver of traces.")
    plan_id = serializers.UUIDField(allow_null=True)
    task = serializers.IntegerField(allow_null=True, help_text="The task's number in its plan.")
    task_id = serializers.UUIDField(allow_null=True)
    agent = serializers.CharField(allow_null=True)
    run_id = serializers.UUIDField(allow_null=True)
    decision_id = serializers.UUIDField(allow_null=True)
    approval_id = serializers.UUIDField(allow_null=True)
    outcome = serializers.CharField(allow_null=True)
    rule = serializers.CharField(allow_null=True)
    subject = serializers.CharField(allow_null=True)
    inputs_hash = serializers.CharField(allow_null=True, help_text="Of the request as it was decided.")
    latency_ms = serializers.FloatField(allow_null=True)
    tokens = serializers.IntegerField(allow_null=True)
    cost_micros = serializers.IntegerField(allow_null=True)
    currency = serializers.CharField(allow_null=True)


class TracePage(serializers.Serializer[Any]):
    """The way to an answer, or to those of a session, in the order of the log."""

    session_id = serializers.UUIDField()
    items = TraceEntry(many=True)
    next_cursor = serializers.CharField(allow_null=True)


class Agents(ApiView):
    """The agents."""

    @extend_schema(operation_id="agents_list", parameters=PAGE_PARAMETERS, responses=AgentPage)
    def get(self, request: Request) -> Response:
        """List the agents by name: what they are for, whether they can work here, and how they did."""
        cursor, limit = page_parameters(request)
        page = page_of_all(all_agents(), key=attrgetter("name"), cursor=cursor, limit=limit)
        records = agent_record(caller(request).workspace_id, timezone.now())
        circuits = circuit_states()
        items = [_agent(each, records.get(each.name), circuits) for each in page.items]
        return Response({"items": items, "next_cursor": page.next_cursor})


class AgentOne(ApiView):
    """One agent."""

    @extend_schema(operation_id="agents_get", responses=AgentEntry)
    def get(self, request: Request, name: str) -> Response:
        """Return an agent."""
        found = agent(name)
        records = agent_record(caller(request).workspace_id, timezone.now())
        return Response(_agent(found, records.get(name), circuit_states()))


class Models(ApiView):
    """The models of the catalog."""

    @extend_schema(
        operation_id="models_list",
        parameters=[
            OpenApiParameter("tier", {"type": "string", "enum": list(catalog.TIERS)}),
            OpenApiParameter("capability", OpenApiTypes.STR, description="Only those that can do this."),
            *PAGE_PARAMETERS,
        ],
        responses=ModelPage,
    )
    def get(self, request: Request) -> Response:
        """List the models by name, with what they can do, what they cost, and whether they answer."""
        cursor, limit = page_parameters(request)
        wanted = request.query_params
        if wanted.get("tier", catalog.TIERS[0]) not in catalog.TIERS:
            raise BadInput(f"tier is one of {', '.join(catalog.TIERS)}.", field="tier")
        found = [
            each
            for each in catalog.models()
            if wanted.get("tier", each.tier) == each.tier
            and ("capability" not in wanted or each.can(wanted["capability"]))
        ]
        page = page_of_all(found, key=attrgetter("name"), cursor=cursor, limit=limit)
        circuits = circuit_states()
        items = [_model(each, circuits) for each in page.items]
        return Response({"items": items, "next_cursor": page.next_cursor})


class ModelOne(ApiView):
    """One model of the catalog."""

    @extend_schema(operation_id="models_get", responses=CatalogModel)
    def get(self, request: Request, name: str) -> Response:
        """Return a model of the catalog."""
        del request
        return Response(_model(catalog.model(name), circuit_states()))


class Tools(ApiView):
    """The tools."""

    @extend_schema(operation_id="tools_list", parameters=PAGE_PARAMETERS, responses=ToolPage)
    def get(self, request: Request) -> Response:
        """List the tools by name: definition, safety, schemas, and how they did in the last 30 days."""
        cursor, limit = page_parameters(request)
        page = page_of_all(all_tools(), key=attrgetter("name"), cursor=cursor, limit=limit)
        index = _capabilities(caller(request).workspace_id)
        return Response(
            {"items": [_tool(each, index) for each in page.items], "next_cursor": page.next_cursor}
        )


class ToolOne(ApiView):
    """One tool."""

    @extend_schema(operation_id="tools_get", responses=ToolEntry)
    def get(self, request: Request, name: str) -> Response:
        """Return a tool."""
        return Response(_tool(tool(name), _capabilities(caller(request).workspace_id)))


class Traces(ApiView):
    """How answers came about."""

    @extend_schema(operation_id="traces_get", parameters=PAGE_PARAMETERS, responses=TracePage)
    def get(self, request: Request, any_id: UUID) -> Response:
        """Return how an answer came about, by the id of its message, reply, plan, run, decision or approval.

        The id of a session gives the way to all its answers. Acts are told by what was decided and what it
        cost; what they brought is left out.
        """
        cursor, limit = page_parameters(request)
        found = trace(any_id, caller(request))
        # Events that were recorded together are told in an order of their own.
        numbered = [(f"{number:09}", entry) for number, entry in enumerate(found.entries)]
        page = page_of_all(numbered, key=lambda each: each[0], cursor=cursor, limit=limit)
        return Response(
            {
                "session_id": found.session_id,
                "items": [asdict(entry) for _, entry in page.items],
                "next_cursor": page.next_cursor,
            }
        )


def _agent(
    who: Agent, record: AgentRecord | None, circuits: Mapping[tuple[str, str], CircuitState]
) -> dict[str, Any]:
    found = availability(who)
    model = found.model
    circuit = circuits.get((model.provider, model.name), CLOSED) if model else CLOSED
    return {
        "name": who.name,
        "version": who.version,
        "purpose": who.purpose,
        "tools": list(who.tools),
        "tier": who.tier,
        "needs": sorted(who.needs),
        "autonomy": who.autonomy,
        "skill": who.skill,
        "examples": list(who.examples),
        "model": model.name if model else None,
        "available": not found.why_not,
        "why_not": found.why_not,
        "only": found.only,
        "circuit": circuit.state,
        "health": asdict(record) if record else None,
    }


def _model(entry: ModelEntry, circuits: Mapping[tuple[str, str], CircuitState]) -> dict[str, Any]:
    return {
        "name": entry.name,
        "provider": entry.provider,
        "tier": entry.tier,
        "quality_rank": entry.quality_rank,
        "context_limit": entry.context_limit,
        "output_limit": entry.output_limit,
        "capabilities": sorted(entry.capabilities),
        "configured": catalog.is_configured(entry),
        "price": asdict(entry.price),
        "circuit": asdict(circuits.get((entry.provider, entry.name), CLOSED)),
    }


def _tool(one: Tool, index: Mapping[tuple[str, str], Capability]) -> dict[str, Any]:
    found = index.get((one.name, one.definition_hash))
    return {
        "name": one.name,
        "description": one.description,
        "category": one.category,
        "safety_level": one.safety,
        "idempotent": one.idempotent,
        "timeout_seconds": one.timeout_seconds,
        "cost_tokens": one.cost_tokens,
        "result_limit_bytes": one.result_limit_bytes,
        "decided_as": one.decided_as,
        "definition_hash": one.definition_hash,
        "parameters_schema": one.parameters_schema,
        "returns_schema": one.returns_schema,
        "capability": dict(CapabilityEntry(found).data) if found else None,
    }


def _capabilities(workspace_id: UUID) -> dict[tuple[str, str], Capability]:
    index = capability_index(timezone.now(), workspace_id=workspace_id)
    return {(each.tool_name, each.version): each for each in index}
