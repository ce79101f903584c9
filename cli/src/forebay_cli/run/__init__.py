"""`forebay run`: a whole Pipeline on one machine, every replica an operating-system process of its own.

Facts are observed once a second (`observation`), decisions are pure functions over them (`restarts`, `draining`, `launches`),
and the doing is in `supervision` (one process) and `session` (all of them, from start to summary).
"""
