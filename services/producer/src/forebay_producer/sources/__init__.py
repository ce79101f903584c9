"""Where events come from: each source is a function of its position."""
