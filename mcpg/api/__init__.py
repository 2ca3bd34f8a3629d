"""`/v1` over Sanic: one module a noun, handlers that parse, call and map. Nothing here decides; see mcpg/engine."""
