"""Pure decisions: what there should be, compared with what was observed."""
