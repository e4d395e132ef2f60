"""Airflow's Kafka connections, made of our settings: one for each watcher, because each needs a consumer group of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

__all__ = ["WATCHED", "connection_id", "kafka_connection"]

WATCHED = ("drifts", "label_requests")  # the topics that wake a DAG


def connection_id(pipeline: str, topic: str = "drifts") -> str:
    """Of the connection through which a topic of a pipeline is watched.

    >>> connection_id("card-payments")
    'driftloop_kafka_card_payments'
    >>> connection_id("card-payments", "label_requests")
    'driftloop_kafka_card_payments__label_requests'
    """
    name = "driftloop_kafka_" + re.sub(r"[^a-z0-9]", "_", pipeline.lower())
    return name if topic == "drifts" else f"{name}__{topic}"


def kafka_connection(kafka: Mapping[str, Any], pipeline: str, topic: str = "drifts") -> tuple[str, str]:
    """Name and value of the environment variable that defines it.

    `kafka` is what `Settings.kafka()` returns. The offset is committed by the trigger once Airflow has stored the event.
    """
    extra = {
        **kafka,
        "group.id": f"driftloop-airflow-{pipeline}" + ("" if topic == "drifts" else f"-{topic}"),
        "enable.auto.commit": "false",
        "auto.offset.reset": "earliest",
        "session.timeout.ms": 10_000,
    }
    value = json.dumps({"conn_type": "kafka", "extra": extra})
    return f"AIRFLOW_CONN_{connection_id(pipeline, topic).upper()}", value
