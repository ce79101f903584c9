"""The operator: watches Pipelines, reads what there is, decides with `forebay.planning`, acts, and tells."""
