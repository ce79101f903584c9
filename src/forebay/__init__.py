"""Forebay: event pipelines on Kafka, described by one `Pipeline` resource."""
