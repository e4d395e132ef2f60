"""Dead letters for people: how many of which kind, what they are, and sending them again once the cause is mended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec
from confluent_kafka import KafkaError, KafkaException, Producer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from stream.adapters.redis_resubmissions import IN_DOUBT, SENT, RedisResubmissions
from stream.cli.producing import follow
from stream.cli.showing import safe
from stream.core.moments import moment_text
from stream.core.scoring import ERROR_HEADER
from stream.errors import Unavailable
from stream.messages import DeadLetter
from stream.settings import Settings
from stream.topics import OUTPUT_BYTES_MAX, TopicNames

__all__ = ["Letter", "Resubmitted", "letters_table", "read_letters", "resubmissions", "resubmit", "summary_table"]

PROVENANCE = "driftloop.resubmitted_from"
SEND_S = 30.0
SHOWN_MAX = 200
CHUNK = 1_000
TOO_LARGE = (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE)


class Letter(NamedTuple):
    """One dead letter, as it lies in its topic, its own headers and ours apart."""

    where: str  # its own position, `payments.dead_letters-2@17`
    about: DeadLetter
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    timestamp_ms: int

    @property
    def source(self) -> str:
        """The position of the record that was wrong."""
        return f"{self.about.topic}-{self.about.partition}@{self.about.offset}"

    @property
    def identity(self) -> str:
        """What copies of a letter have in common. A topic that was made again has the same positions, with other records."""
        content = b"%d %d " % (self.timestamp_ms, -1 if self.key is None else len(self.key))
        content += (self.key or b"") + (self.value or b"")
        return f"{self.source}#{blake2b(content, digest_size=8).hexdigest()}"


class Resubmitted(NamedTuple):
    """What became of the letters that were to be sent again."""

    sent: int
    before: int  # sent earlier
    in_doubt: int  # somebody began to send them and was cut off
    of_learn: int  # examples: they are not sent again, retraining reads them


def read_letters(settings: Settings, names: TopicNames, *, since_ms: int | None = None) -> list[Letter]:
    """Every dead letter up to now, copies left out. Raises Unavailable.

    Args:
        since_ms: leave out what lies before the first letter of this timestamp or later; it is that of the wrong record.
    """
    ours = {"score": (names.events, names.labels), "learn": (names.examples,)}
    found: dict[str, Letter] = {}
    for message in follow(settings, names.dead_letters, from_start=True, to_end=True, since_ms=since_ms):
        letter = _letter(message)
        # Whoever can write to this topic must not send records elsewhere. Workers keep the partition's number.
        if letter is None or letter.about.partition != message.partition():
            continue
        if letter.about.topic in ours[letter.about.stage]:
            found.setdefault(letter.identity, letter)
    return sorted(found.values(), key=lambda letter: letter.timestamp_ms)


def _letter(message: Any) -> Letter | None:
    headers: list[tuple[str, bytes | None]] = message.headers() or []
    ours = {name.removeprefix(ERROR_HEADER): value for name, value in headers if name.startswith(ERROR_HEADER)}
    try:
        about = msgspec.convert(
            {name: (value or b"").decode() for name, value in ours.items()}, DeadLetter, strict=False
        )
    except (msgspec.ValidationError, UnicodeDecodeError):
        return None  # somebody else's record
    return Letter(
        f"{message.topic()}-{message.partition()}@{message.offset()}",
        about,
        message.key(),
        message.value(),
        [pair for pair in headers if not pair[0].startswith(ERROR_HEADER)],
        message.timestamp()[1],
    )


def resubmissions(settings: Settings, name: str) -> dict[str, str]:
    """Identity of a letter -> "sent" or, in doubt, "sending". Raises Unavailable."""
    store = RedisResubmissions(**settings.redis(), pipeline=name)
    try:
        return store.states()
    finally:
        store.close()


def summary_table(letters: Sequence[Letter], states: dict[str, str]) -> Table:
    """By code, the commonest first."""
    table = Table(box=SIMPLE_HEAD)
    for title, justify in (("code", "left"), ("letters", "right"), ("sent again", "right"), ("newest", "left")):
        table.add_column(title, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    table.add_column("message of the newest")
    counts = Counter(letter.about.code for letter in letters)
    for code, count in counts.most_common():
        its = [letter for letter in letters if letter.about.code == code]
        again = sum(letter.identity in states for letter in its)
        newest = its[-1]
        table.add_row(
            safe(code), f"{count:,}", f"{again:,}", moment_text(newest.timestamp_ms), safe(newest.about.message)
        )
    return table


def letters_table(letters: Iterable[Letter], states: dict[str, str], *, values: bool) -> Table:
    """One row each."""
    table = Table(box=SIMPLE_HEAD)
    for title in ("record", "time", "key", "sent again", "value" if values else "message"):
        table.add_column(title, overflow="fold")
    for letter in letters:
        what = _shown(letter.value) if values else safe(letter.about.message)
        state = {SENT: "yes", IN_DOUBT: "in doubt"}.get(states.get(letter.identity, ""), "")
        table.add_row(letter.source, moment_text(letter.timestamp_ms), _shown(letter.key), state, what)
    return table


def _shown(data: bytes | None) -> Text:
    """Safe on a terminal: no control characters, no markup, not endless."""
    if data is None:
        return Text("–")
    return Text(repr(data[:SHOWN_MAX])[2:-1] + ("…" if len(data) > SHOWN_MAX else ""))


def resubmit(settings: Settings, name: str, letters: Sequence[Letter], *, again: bool = False) -> Resubmitted:
    """Send the records to where they came from, each once, however often and by how many this is called.

    Key, value and the record's own headers are the original ones; a header says which dead letter it was. The timestamp is
    new, for it is only now that the record comes. Raises Unavailable.

    Args:
        again: also those that somebody began to send and perhaps did not.
    """
    store = RedisResubmissions(**settings.redis(), pipeline=name)
    wanted = [letter for letter in letters if letter.about.stage == "score"]
    done: set[str] = set()
    refused: dict[str, str] = {}
    try:
        for start in range(0, len(wanted), CHUNK):  # what is cut off leaves no more than a chunk in doubt
            claimed = [x for x in wanted[start : start + CHUNK] if store.claim(x.identity, again=again)]
            attempt = _send(settings, claimed)
            store.sent(attempt.taken)
            store.give_back(attempt.refused)
            done |= attempt.taken
            refused |= attempt.refused
            if attempt.in_doubt:
                raise Unavailable(
                    f"{len(attempt.in_doubt)} of {len(claimed)} records were not taken by Kafka ({attempt.in_doubt[0]}); they "
                    "are in doubt: see whether they came, then use --again"
                )
        states = store.states()
    finally:
        store.close()
    if refused:
        raise Unavailable(
            f"{len(done)} records were sent again, {len(refused)} refused ({next(iter(refused.values()))}): the topic's "
            "max.message.bytes must be above the record with its headers"
        )
    rest = [states[letter.identity] for letter in wanted if letter.identity not in done]
    return Resubmitted(len(done), rest.count(SENT), rest.count(IN_DOUBT), len(letters) - len(wanted))


class _Attempt(NamedTuple):
    """What became of letters, by identity; `refused`: certainly not sent, and why."""

    taken: set[str]
    refused: dict[str, str]
    in_doubt: list[str]  # why


def _send(settings: Settings, letters: Sequence[Letter]) -> _Attempt:
    attempt = _Attempt(set(), {}, [])
    if not letters:
        return attempt
    limits = {"message.max.bytes": OUTPUT_BYTES_MAX, "delivery.timeout.ms": int(SEND_S * 1000)}
    producer = Producer({**settings.kafka(), "enable.idempotence": True, "linger.ms": 5, **limits})

    def reported(letter: Letter) -> Callable[..., None]:
        def report(error: Any, _: Any) -> None:
            if error is None:
                attempt.taken.add(letter.identity)
            elif error.code() in TOO_LARGE:
                attempt.refused[letter.identity] = f"{letter.source}: {error.str()}"
            else:
                attempt.in_doubt.append(str(error))

        return report

    for letter in letters:
        try:
            _produce(producer, letter, reported(letter))
        except KafkaException as error:  # it never left
            attempt.refused[letter.identity] = f"{letter.source}: {error.args[0].str()}"
        producer.poll(0)
    if left := producer.flush(SEND_S):
        attempt.in_doubt.extend(["no answer in time"] * left)
    return attempt


def _produce(producer: Producer, letter: Letter, report: Callable[..., None]) -> None:
    about, headers = letter.about, [*letter.headers, (PROVENANCE, letter.where.encode())]
    while True:
        try:
            producer.produce(
                about.topic, letter.value, letter.key, about.partition, headers=headers, on_delivery=report
            )
            return
        except BufferError:
            producer.poll(0.1)
