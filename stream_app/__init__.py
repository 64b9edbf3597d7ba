"""A streaming recommender: Kafka events in, pruned and proven recommendations out."""
