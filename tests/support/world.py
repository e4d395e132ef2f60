"""One pipeline of its own on the real Kafka and Redis: produce, start workers, wait, read everything back."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import redis
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from stream.adapters.file_pipelines import load_pipeline
from stream.adapters.kafka_topics import KafkaTopics
from stream.cli.running import worker_command
from stream.cli.showing import PipelineStatus, read_status
from stream.core.records import Record
from stream.local.process import Child, wait_until
from stream.local.stack import Stack
from stream.settings import Settings, load_settings
from stream.topics import TopicNames
from tests.support.environment import environment

__all__ = ["World", "card_stream"]

PIPELINE_FILE = Path(__file__).with_name("cards.py")
SETTLE_S = 60.0


class World:
    """Topics, state and workers under one pipeline name."""

    def __init__(
        self,
        stack: Stack,
        name: str,
        partitions: int = 2,
        missing: str = "default",
        reads: str = "",
        labelling: str = "",
        objectives: str = "",
        file: Path = PIPELINE_FILE,
    ) -> None:
        self.stack = stack
        self.file = file
        self.name = name
        self.partitions = partitions
        self._environment = {
            "DRIFTLOOP_TEST_NAME": name, "DRIFTLOOP_TEST_MISSING": missing, "DRIFTLOOP_TEST_READS": reads,
            "DRIFTLOOP_TEST_LABELLING": labelling, "DRIFTLOOP_TEST_OBJECTIVES": objectives,
        }  # fmt: skip
        # Until it is closed: what a test calls in this process loads the pipeline file, too.
        self._until_closed = ExitStack()
        self._until_closed.enter_context(environment(self._environment))
        self.pipeline = load_pipeline(file).pipeline
        self.names = TopicNames.of(self.pipeline)
        self.settings: Settings = load_settings(
            brokers=stack.brokers,
            redis_url=stack.redis_url,
            signing_key=stack.signing_key(),
            partitions=partitions,
            artifact_url=stack.environment()["DRIFTLOOP_ARTIFACT_URL"],
            archive_url=stack.environment()["DRIFTLOOP_ARCHIVE_URL"],
        )
        self.kafka = KafkaTopics(self.settings.kafka(), self.names)
        self.kafka.create(partitions, 1)
        self.redis = redis.Redis.from_url(stack.redis_url)
        self.workers: list[Child] = []
        self.made_up: set[bytes] = set()  # drifts that a test has put on the topic itself

    def close(self) -> None:
        for worker in self.workers:
            if worker.running():
                worker.signal(18)  # one that is stopped cannot end
                worker.kill()
        self.redis.close()
        self._until_closed.close()

    @property
    def environment(self) -> dict[str, str]:
        """What a command needs in its environment to be about this world."""
        return self.stack.environment(**self._environment)

    # -- workers -----------------------------------------------------------------------------------------------------

    def start(self, role: str, *, pace_s: float = 0.0, **environment: str) -> Child:
        """`pace_s`: so long a score worker takes for each event, at least; other arguments are settings."""
        settings = {f"DRIFTLOOP_{key.upper()}": value for key, value in environment.items()}
        settings.setdefault("DRIFTLOOP_SESSION_TIMEOUT_MS", "2000")
        settings["DRIFTLOOP_TEST_PACE_S"] = str(pace_s)
        number = sum(worker.name.startswith(f"{self.name}-{role}") for worker in self.workers)
        child = self.stack.add(
            f"{self.name}-{role}-{number}", worker_command(self.file, role), **settings, **self._environment
        )
        self.workers.append(child)
        return child

    def wait(self, condition: Callable[[], bool], what: str, timeout_s: float = SETTLE_S) -> None:
        try:
            wait_until(condition, timeout_s, what)
        except TimeoutError as error:
            logs = "\n".join(f"--- {w.name} (running: {w.running()})\n{w.tail(12)}" for w in self.workers)
            raise AssertionError(f"{error}\n{self.status() if self.stack.redis.ready() else ''}\n{logs}") from None

    def wait_for_death(self, worker: Child, code: int) -> None:
        self.wait(lambda: not worker.running(), f"{worker.name} to end")
        assert worker.wait(1.0) == code, worker.tail(30)

    def stop_workers(self) -> None:
        """SIGTERM to all; each must end well."""
        for worker in self.workers:
            if worker.running():
                worker.signal(15)
        for worker in self.workers:
            if worker.process is not None and worker.process.returncode is None:
                assert worker.wait(30.0) == 0, worker.tail(30)

    # -- looking -----------------------------------------------------------------------------------------------------

    def status(self) -> PipelineStatus:
        return read_status(self.settings, self.name, self.names.reads)

    def committed(self, topic: str = "events") -> int:
        """How many records of a topic the state covers."""
        total = 0
        for partition in range(self.partitions):
            meta = self.redis.hget(f"{{{self.name}:{partition}}}:state", "meta")
            if meta:
                total += msgspec.json.decode(meta)["offsets"].get(topic, 0)  # type: ignore[arg-type]
        return total

    def lag(self) -> int:
        status = self.status()
        return sum(status.lag(topic) for topic in ("events", "labels"))

    def done(self) -> bool:
        """As `settled`, where the log ends with markers that are never read."""
        status = self.status()
        read = {topic: self.read(topic) for topic in ("events", "labels")}
        return (
            all(
                status.partitions[p].offsets.get(topic, 0) == records[-1].offset + 1
                for topic, by_partition in read.items()
                for p, records in by_partition.items()
            )
            and not any(self.redis.hlen(f"{{{self.name}:{p}}}:outbox") for p in range(self.partitions))
            and status.learner is not None
            and status.lag("examples") == 0
        )

    def settled(self) -> bool:
        """Everything processed, published, learned and snapshotted."""
        status = self.status()
        if any(status.lag(topic) for topic in ("events", "labels")) or status.learner is None:
            return False
        if any(self.redis.hlen(f"{{{self.name}:{p}}}:outbox") for p in range(self.partitions)):
            return False
        return status.lag("examples") == 0

    def wait_settled(self) -> None:
        self.wait(self.settled, "everything to be processed")

    # -- Kafka -------------------------------------------------------------------------------------------------------

    def produce(self, records: Iterable[Record], *, rate: float | None = None, **config: Any) -> int:
        # Without idempotence a retry reorders or doubles records.
        fixed = {"bootstrap.servers": self.stack.brokers, "linger.ms": 5, "log_level": 0, "enable.idempotence": True}
        producer = Producer({**fixed, **config})
        failures: list[Any] = []
        started_s, sent = time.monotonic(), 0
        for record in records:
            if rate is not None and sent % 50 == 0:
                time.sleep(max(0.0, sent / rate - (time.monotonic() - started_s)))
            producer.produce(
                self.names[record.topic], record.value, record.key, record.partition, timestamp=record.timestamp_ms,
                headers=record.headers, on_delivery=lambda error, _: failures.append(error) if error else None,
            )  # fmt: skip
            producer.poll(0)
            sent += 1
        assert producer.flush(30) == 0
        assert not failures
        return sent

    def produce_in_transactions(self, records: Iterable[Record], size: int = 100) -> None:
        """Commits leave markers in the log, which no consumer is given; after each, some records are taken back."""
        producer = Producer(
            {"bootstrap.servers": self.stack.brokers, "transactional.id": f"{self.name}-producer", "log_level": 0}
        )
        producer.init_transactions(30)

        def transaction(part: Iterable[Record]) -> None:
            producer.begin_transaction()
            for r in part:
                producer.produce(self.names[r.topic], r.value, r.key, r.partition, timestamp=r.timestamp_ms)

        for part in batched(records, size):
            transaction(part)
            producer.commit_transaction(30)
            transaction(part[-2:])
            producer.flush(30)
            producer.abort_transaction(30)

    def read(self, topic: str) -> dict[int, list[Record]]:
        """Everything that lies in a topic, by partition; what transactions took back is not there."""
        consumer = Consumer(
            {"bootstrap.servers": self.stack.brokers, "group.id": "reader", "enable.auto.commit": False, "log_level": 0,
             "enable.partition.eof": True}
        )  # fmt: skip
        name = self.names[topic]
        found: dict[int, list[Record]] = defaultdict(list)
        try:
            left = set(consumer.list_topics(name, timeout=10).topics[name].partitions)
            consumer.assign([TopicPartition(name, p, 0) for p in left])
            deadline_s = time.monotonic() + 30
            while left:
                assert time.monotonic() < deadline_s, f"reading {name}: {left}"
                for m in consumer.consume(5_000, 0.05):
                    error = m.error()
                    if error is not None:
                        assert error.code() == KafkaError._PARTITION_EOF, error
                        left.discard(m.partition())
                        continue
                    found[m.partition()].append(
                        Record(topic, m.partition(), m.offset(), m.timestamp()[1], m.key(), m.value(), m.headers())
                    )
        finally:
            consumer.close()
        return found


def batched(records: Iterable[Record], size: int) -> Iterator[list[Record]]:
    rest = iter(records)
    while part := list(islice(rest, size)):
        yield part


def card_stream(
    events: int,
    *,
    seed: int = 1,
    partitions: int = 2,
    cards: int = 40,
    poison: float = 0.0,
    repeated: float = 0.0,
    early: float = 0.0,
    late: float = 0.0,
    contradicting: float = 0.0,
    duplicate: float = 0.0,
    missing: float = 0.05,
    unknown: float = 0.0,
    changed_at: int | None = None,
) -> list[Record]:
    """Events of some cards and their labels, in Kafka's time order, ending now; event time is a second per event.

    From event `changed_at` on, fraud is something else.
    """
    rng = random.Random(seed)
    start_ms = int(time.time() * 1_000) - 3_600_000 - events * 1_000
    timed: list[tuple[int, int, str, int, bytes, bytes]] = []  # (time, order, topic, partition, key, value)

    cards_of: dict[int, int] = {}

    def add(at_ms: int, topic: str, card: int, value: bytes) -> None:
        timed.append((at_ms, len(timed), topic, card % partitions, f"card-{card}".encode(), value))

    def add_label(at_ms: int, card: int, event_id: str, fraud: bool) -> None:
        body = {"event_id": event_id, "label": fraud, "labelled_at_ms": at_ms, "source": "bank"}
        add(at_ms, "labels", card, msgspec.json.encode(body))

    for number in range(events):
        at_ms = start_ms + number * 1_000
        card = rng.randrange(cards)
        if rng.random() < poison:
            add(at_ms, "events", card, rng.choice(POISON)(rng))
            continue
        amount, hour = rng.expovariate(1 / 200), rng.randrange(24)
        event_id = f"e{number}"
        cards_of[number] = card
        if number and rng.random() < repeated:
            earlier = rng.choice(list(cards_of)[-1_000:])
            event_id = f"e{earlier}"
            if rng.random() < 0.7:  # else somebody uses the id twice
                card = cards_of[earlier]
        features = {"amount": amount, "hour": hour}
        add(
            at_ms,
            "events",
            card,
            msgspec.json.encode({"event_id": event_id, "occurred_at_ms": at_ms, "features": features}),
        )
        if event_id != f"e{number}" or rng.random() < missing:
            continue
        changed = changed_at is not None and number >= changed_at
        fraud = amount < 100 and hour >= 12 if changed else amount > 400 and hour < 12
        delay_ms = rng.randrange(1_000, 300_000)
        if rng.random() < early:
            delay_ms = -rng.randrange(1_000, 60_000)
        elif rng.random() < late:
            delay_ms = rng.randrange(700_000, 1_000_000)
        add_label(at_ms + delay_ms, card, event_id, fraud)
        if rng.random() < duplicate:
            add_label(at_ms + delay_ms + 5_000, card, event_id, fraud)
        if rng.random() < contradicting:
            add_label(at_ms + delay_ms + 9_000, card, event_id, not fraud)
        if rng.random() < unknown:
            add_label(at_ms + delay_ms, card, f"nobody-{number}", fraud)
    records, offsets = [], defaultdict(int)
    for at_ms, _, topic, partition, key, value in sorted(timed):
        records.append(Record(topic, partition, offsets[topic, partition], at_ms, key, value))
        offsets[topic, partition] += 1
    return records


POISON: list[Callable[[random.Random], bytes]] = [
    lambda rng: b"",
    lambda rng: rng.randbytes(40),
    lambda rng: b'{"event_id": "x", "occurred_at_ms": 1, "features": {"amount": 1e999, "hour": 1}}',
    lambda rng: b'{"event_id": "x", "occurred_at_ms": 1, "features": {"amount": "much", "hour": 1}}',
    lambda rng: b'{"event_id": "x", "occurred_at_ms": 4000000000000, "features": {"amount": 1, "hour": 1}}',
    lambda rng: b'{"event_id": "x", "occurred_at_ms": 1, "features": {"amount": 1, "hour": 1, "extra": 1}}',
    lambda rng: b"[" * 10_000,
    lambda rng: b"x" * 70_000,
]
