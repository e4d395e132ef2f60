"""How records are fetched, on the real broker."""

from __future__ import annotations

import time
from collections import Counter
from itertools import islice

import pytest
from confluent_kafka import Consumer, TopicPartition

from stream.core.records import Record
from stream.worker.app import consumer_config
from tests.support.world import World

pytestmark = pytest.mark.integration

EACH = 30_000


def test_no_partition_starves_while_another_has_a_backlog_of_large_batches(world: World):
    """A batch larger than what may be fetched of a partition is served to the first partition of a request only."""
    value = b"x" * 200
    records = (Record("events", i % 2, 0, 1_700_000_000_000, b"k", value) for i in range(2 * EACH))
    while world.produce(islice(records, EACH), **{"linger.ms": 100, "batch.num.messages": 100_000}):
        pass
    consumer = Consumer(consumer_config(world.name, world.settings))
    consumer.assign([TopicPartition(world.names.events, p, 0) for p in (0, 1)])
    read: Counter[int] = Counter()
    lead = 0
    deadline_s = time.monotonic() + 60
    try:
        while read.total() < 2 * EACH:
            assert time.monotonic() < deadline_s, read
            read.update(m.partition() for m in consumer.consume(1_000, 0.1) if m.error() is None)
            time.sleep(0.002)  # slower than the broker, as a worker is: it is the backlog that starves
            lead = max(lead, abs(read[0] - read[1]))
    finally:
        consumer.close()
    assert lead < EACH / 2
