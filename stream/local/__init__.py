"""Kafka, Redis and workers on one machine without Docker."""
