"""What is told as it changes: one hub, by server-sent events and by WebSocket."""
