"""What the user asks for: models, rules across fields, loading, names, schemas."""
