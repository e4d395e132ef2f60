"""Writes `schemas/`: one JSON Schema per topic, generated from `stream/messages.py`, and the table of topics.

python -m stream.contracts
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from stream.messages import TOPICS
from stream.topics import DAY_MS, DECLARATIONS

__all__ = ["EXAMPLES", "files", "schema_for"]

SOURCE = {"topic": "payments.events", "partition": 2, "offset": 1042}
SERVED = {
    "version": "84c5abf7@17734",
    "prediction": False,
    "probabilities": {"false": 0.97, "true": 0.03},
    "persistence": False,
    "prior": False,
    "prior_probabilities": {"false": 0.98, "true": 0.02},
}
FEATURES = {"amount": 31.5, "country": "DE", "hour": 14}

EXAMPLES: dict[str, list[dict[str, Any]]] = {
    "events": [{"event_id": "p-17", "occurred_at_ms": 1767225600000, "features": FEATURES}],
    "labels": [{"event_id": "p-17", "label": True, "labelled_at_ms": 1767312000000, "source": "bank"}],
    "predictions": [
        {
            "event_id": "p-17",
            "prediction": False,
            "probabilities": {"false": 0.97, "true": 0.03},
            "uncertainty": 0.06,
            "model": {"name": "payments", "version": "84c5abf7@17734", "slot": "champion"},
            "source": SOURCE,
            "occurred_at_ms": 1767225600000,
            "scored_at_ms": 1767225600021,
            "explanation": {
                "scale": "log_odds",
                "bias": -2.1,
                "contributions": [["amount", -0.9], ["hour", 0.2]],
                "rest": -0.67,
            },
        }
    ],
    "examples": [
        {
            "event_id": "p-17",
            "entity_id": "card-00042",
            "occurred_at_ms": 1767225600000,
            "features": {**FEATURES, "count_1h": 2.0},
            "served": {"champion": SERVED},
            "label": True,
            "label_source": "bank",
            "labelled_at_ms": 1767312000000,
            "timing": "on_time",
            "partition": 2,
            "sequence": 917,
            "event_source": SOURCE,
            "label_source_position": {"topic": "payments.labels", "partition": 2, "offset": 1003},
        }
    ],
    "drifts": [
        {
            "drift_id": "payments-0-16999",
            "pipeline": "payments",
            "shard": 0,
            "signal": "error",
            "detector": "blocked_adwin",
            "severity": 0.4,
            "before": 0.02,
            "after": 0.07,
            "examples_topic": "payments.examples",
            "from_offset": 15200,
            "to_offset": 17000,
            "detected_at_ms": 1767312000000,
            "segment": "country=DE",
            "moved": [
                {"feature": "amount", "how": "higher", "shift": 0.8, "rank_before": 0.5, "rank_after": 0.7},
            ],
        }
    ],
    "label_requests": [
        {
            "event_id": "p-17",
            "features": FEATURES,
            "prediction": False,
            "uncertainty": 0.93,
            "reason": "uncertain",
            "expires_at_ms": 1767312000000,
        }
    ],
    "releases": [
        {
            "release_id": "9d1f00aa.5.c0ffee11",
            "pipeline": "payments",
            "action": "promoted",
            "base": "9d1f00aa",
            "version": "9d1f00aa@17734",
            "parent": "84c5abf7",
            "decided_by": "rule:sequential_test",
            "reason": "better than the champion: evidence 23.1, needed 20",
            "evidence": {"labels": 4000, "gain": 0.03},
            "decided_at_ms": 1767312000000,
        }
    ],
    "dead_letters": [
        {
            "topic": "payments.events",
            "partition": 2,
            "offset": 1042,
            "stage": "score",
            "code": "json_invalid",
            "message": "the value is not valid JSON in UTF-8",
        }
    ],
}


def schema_for(topic: str) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a topic's messages; for `dead_letters`, of its error headers."""
    (reference,), components = msgspec.json.schema_components([TOPICS[topic]], ref_template="#/$defs/{name}")
    name = reference["$ref"].rpartition("/")[2]
    schema = dict(components.pop(name))
    defs = {"$defs": components} if components else {}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:driftloop:{topic}",
        **schema,
        **defs,
        "examples": EXAMPLES[topic],
    }


def files() -> dict[str, str]:
    """File name -> text of everything in `schemas/`."""
    made = {
        f"{topic}.json": msgspec.json.format(msgspec.json.encode(schema_for(topic)), indent=2).decode() + "\n"
        for topic in TOPICS
    }
    return {**made, "README.md": _table()}


def _table() -> str:
    lines = [
        "# Topics and their messages",
        "",
        "Made by `make schemas` from `stream/messages.py` and `stream/topics.py`; a test compares.",
        "Kafka's name of a topic is `<pipeline>.<topic>`. Values are JSON in UTF-8.",
        "",
        "| topic | key | producer | consumer | partitions | retention |",
        "|---|---|---|---|---|---|",
    ]
    for topic in DECLARATIONS.values():
        retention = "for ever" if topic.retention_ms < 0 else f"{topic.retention_ms // DAY_MS} days"
        partitions = {"events": "as many as `events`", "shards": "one per model shard", "one": "1"}[topic.partitions]
        lines.append(
            f"| [`{topic.name}`]({topic.name}.json) | {topic.key} | {topic.producer} | {topic.consumer} "
            f"| {partitions} | {retention} |"
        )
    return "\n".join(
        [
            *lines,
            "",
            "A dead letter keeps the original key, value, headers and timestamp; what `dead_letters.json` describes are its",
            "further headers, each named `driftloop.error.<field>`.",
            "",
            "Rules of change: fields are only added, with a default; none is removed, renamed or given another type.",
            "",
        ]
    )


def main(directory: Path) -> None:
    """Write every file."""
    directory.mkdir(exist_ok=True)
    for name, text in files().items():
        (directory / name).write_text(text)


if __name__ == "__main__":
    main(Path("schemas"))
