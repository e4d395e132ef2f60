"""Bytewax as its documentation shows it: a Kafka source, one step that predicts and learns, a Kafka sink.

    .venv-bench-bytewax/bin/python -m bench.bytewax_flow <brokers> <name> <model> <count>

Prints `[seconds, records]` now and then. Bytewax's recovery is off: after a crash it answers everything again from the first
record, and the model and what waits for a label, both only in memory, are lost. No validation, dead letters or explanations.
"""

from __future__ import annotations

import sys

import bytewax.operators as op
import msgspec
from bytewax.connectors.kafka import KafkaSink, KafkaSinkMessage, KafkaSource, KafkaSourceMessage
from bytewax.dataflow import Dataflow
from bytewax.run import cli_main

from bench.peer import PredictAndLearn

# Bytewax's own default, which its documentation gives for throughput; 300, 5,000 and lz4 make no difference beyond noise.
BATCH = 1_000


def flow_of(brokers: str, name: str, work: PredictAndLearn) -> Dataflow:
    decode, encode = msgspec.json.Decoder().decode, msgspec.json.Encoder().encode
    labels = f"{name}.labels"

    def step(batch: list[KafkaSourceMessage]) -> list[KafkaSinkMessage]:
        answers = []
        for message in batch:
            if message.topic == labels:
                work.label(decode(message.value))
            else:
                answers.append(KafkaSinkMessage(message.key, encode(work.event(decode(message.value)))))
        return answers

    flow = Dataflow("bench")
    # It ends with the topics instead of waiting for more, so that it leaves by itself with everything written.
    source = KafkaSource([brokers], [f"{name}.events", labels], tail=False, batch_size=BATCH)
    answers = op.flat_map_batch("predict-and-learn", op.input("in", flow, source), step)
    op.output("out", answers, KafkaSink([brokers], f"{name}.predictions"))
    return flow


if __name__ == "__main__":
    brokers_, name_, model_, count_ = sys.argv[1:]
    cli_main(flow_of(brokers_, name_, PredictAndLearn(model_, int(count_))))
