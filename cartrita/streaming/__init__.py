"""Real time: the hub, the protocol `cartrita.v1`, the one WebSocket consumer."""
