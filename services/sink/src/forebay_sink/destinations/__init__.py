"""Where sinks store: one module per kind of destination."""
