"""Tells the console what tools are, for its page of an approval."""

from cartrita.tools.registry import UnknownTool, tool
from governance.admin.approvals import ToolShown, register_tools


def describe(name: str) -> ToolShown | None:
    """Return a tool as it is now, None where none has that name."""
    try:
        found = tool(name)
    except UnknownTool:
        return None
    return ToolShown(found.description, found.definition_hash)


register_tools(describe)
