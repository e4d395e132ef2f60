"""`python -m stream.airflow.connections <pipeline>`: the Kafka connections of an Airflow that is not ours, as lines `NAME=value`.

Made of the settings, with their passwords. Needs no Airflow.
"""

from __future__ import annotations

import sys

from stream.adapters.airflow_connections import WATCHED, kafka_connection
from stream.settings import Settings, load_settings

__all__ = ["connections"]


def connections(settings: Settings, pipeline: str) -> dict[str, str]:
    """Environment variable -> connection, one for each topic that is watched."""
    return dict(kafka_connection(settings.kafka(), pipeline, topic) for topic in WATCHED)


def main() -> int:
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.stderr.write("usage: python -m stream.airflow.connections <name of a pipeline>\n")
        return 2
    for variable, value in connections(load_settings(), sys.argv[1]).items():
        sys.stdout.write(f"{variable}={value}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
