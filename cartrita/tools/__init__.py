"""Tools: the decorator, the registry, the runner; owns ToolReturned, ToolFailed and ToolDenied."""
