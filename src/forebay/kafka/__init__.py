"""The only code that speaks Kafka."""
