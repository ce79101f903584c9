"""`forebay simulate`: scaling policies on the same load, in the same world, with the same dice.

`command.py` is the usage; `comparison.py` runs policies and takes medians; `world.py` is the model, `ranges.py` its figures,
`traces.py` its load; `policies/` holds Forebay's own decision, its peers after their formulas, and two reference lines.
"""
