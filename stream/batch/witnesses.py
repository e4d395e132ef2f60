"""The features that an event was scored with, and who answered it: in its example, or in Redis while no label has come.

Examples of an event come after the version that answered it: they are looked for from there on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain

import msgspec

from stream.batch.evidence import Evidence, Place
from stream.batch.verdicts import Case
from stream.core.examples import ExampleParser
from stream.core.rebuilding import Difference, witness_of_example, witness_of_remembered
from stream.core.records import Record
from stream.core.remembering import decode_remembered
from stream.errors import RecordRejected
from stream.messages import Source
from stream.pipeline import Pipeline
from stream.topics import TopicNames

__all__ = ["Progress", "Witnesses", "told"]

Progress = Callable[[str, int, int], None]
"""(what is read, records so far, records in all)"""


def told(
    on_progress: Progress, what: str, batches: Iterable[list[Record]], start: int, end: int
) -> Iterator[list[Record]]:
    """The same batches of offsets [start, end), and how far they are."""
    on_progress(what, 0, end - start)
    for batch in batches:
        yield batch
        on_progress(what, batch[-1].offset + 1 - start, end - start)


class _Where(msgspec.Struct):
    event_source: Source


class Witnesses:
    """Looks for what was kept of events."""

    def __init__(self, evidence: Evidence, pipeline: Pipeline, on_progress: Progress) -> None:
        self._evidence = evidence
        self._pipeline = pipeline
        self._names = TopicNames.of(pipeline)
        self._on_progress = on_progress

    def find(self, cases: Sequence[Case]) -> None:
        """Give each case its witness, or its end if there is none or it names another model. Raises Unavailable."""
        looking: dict[Place, list[Case]] = defaultdict(list)
        for case in cases:
            looking[case.origin].append(case)
        if looking:
            # The version may be a forged one: an example that is younger than the prediction counts, too.
            oldest_ms = min(case.record.timestamp_ms for case in cases if case.record is not None)
            since = self._evidence.examples_since(0, oldest_ms)
            self._look_through_examples(looking, min(since, *(case.version[1] for case in cases)))
        for case in cases:
            if case.witness is None:
                self._remembered(case)
            if case.witness is not None:
                case.found.features_from = case.witness.where
                self._check_version(case)
            elif not case.done:
                case.cannot(
                    "its features are not kept any more: Redis has forgotten the event, and it has no example that is left"
                )

    def _look_through_examples(self, looking: dict[Place, list[Case]], start: int) -> None:
        parse, topic, shard = ExampleParser(self._pipeline).parse, self._names.examples, 0
        decode = msgspec.json.Decoder(_Where).decode
        end = self._evidence.examples_end(shard)
        batches = told(self._on_progress, "features", self._evidence.examples_left(shard, start, end), start, end)
        for record in chain.from_iterable(batches):
            try:
                source = decode(record.value or b"").event_source
                its = looking.get((source.partition, source.offset))
                if its is None:
                    continue
                where = f"{topic}-{shard}@{record.offset}"
                witness = witness_of_example(parse(record), where, record.offset, self._pipeline.name)
            except (msgspec.DecodeError, UnicodeDecodeError, RecordRejected):
                continue
            for case in list(its):
                assert case.live is not None
                if witness is not None and (case.witness is None or witness.model == case.live.model):
                    case.witness = witness
                if case.witness is not None and case.witness.model == case.live.model:
                    its.remove(case)
            if not its:
                del looking[source.partition, source.offset]
                if not looking:
                    return

    def _remembered(self, case: Case) -> None:
        live = case.live
        assert live is not None
        data = self._evidence.remembered(case.origin[0], live.event_id)
        if data is None:
            return
        remembered = decode_remembered(data)
        if remembered.offset == case.origin[1]:
            case.witness = witness_of_remembered(
                remembered, live.event_id, self._names.events, case.origin[0], self._pipeline
            )

    def _check_version(self, case: Case) -> None:
        """What was kept of the event names the model, too."""
        live, witness = case.live, case.witness
        assert live is not None
        assert witness is not None
        if witness.model == live.model:
            return
        start = self._evidence.examples_start(0)
        if case.version[1] < start <= (witness.offset if witness.offset is not None else start):
            case.cannot("it is of a state that was reset before its label came, so its features were not kept")
            return
        said, kept = msgspec.to_builtins(live.model), msgspec.to_builtins(witness.model)
        case.differs(Difference("model", said, kept), f"{witness.where} says which model answered")
