"""What the command line shows: predictions, status, reports."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from redis.exceptions import RedisError
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from stream.adapters.kafka_topics import KafkaTopics
from stream.adapters.redis_connections import redis_client
from stream.adapters.redis_models import RedisControl, RedisModelStore, examples_from
from stream.adapters.redis_telemetry import RedisTelemetry
from stream.core.beginning import Beginning
from stream.core.estimating import estimate
from stream.core.objectives import UNBIASED, Judged, coverage_of
from stream.core.remembering import Meta, summed
from stream.errors import Unavailable
from stream.messages import Drift
from stream.settings import Settings
from stream.topics import TopicNames
from stream.worker.telemetry import age_p99_ms, merged

if TYPE_CHECKING:  # what it needs is slow to import
    from stream.batch.exact import ExactReplay

__all__ = [
    "PipelineStatus",
    "drift_text",
    "exact_view",
    "figure",
    "objectives_table",
    "prediction_line",
    "read_status",
    "replay_view",
    "safe",
    "status_view",
]

HEADLINE = {
    "binary": (
        "accuracy",
        "roc_auc",
        "average_precision",
        "recall",
        "precision",
        "recall_at_alert_share",
        "log_loss",
        "calibration_error",
    ),
    "anomaly": ("accuracy", "roc_auc", "average_precision", "recall", "precision", "recall_at_alert_share"),
    "multiclass": ("accuracy", "macro_f1", "kappa", "log_loss", "calibration_error"),
    "regression": ("mae", "rmse", "r2", "bias"),
}


TROUBLE = {
    "updates_refused": "updates refused",
    "gaps": "gaps in the examples",
    "repeats": "repeated examples",
    "growth_stopped": "trees stopped growing",
}


class PipelineStatus(msgspec.Struct):
    """One look at a pipeline: what Redis and Kafka say."""

    name: str
    partitions: dict[int, Meta]
    ends: dict[str, dict[int, int]]  # topic -> partition -> log end
    learner: dict[str, Any] | None
    control: dict[str, str]
    oldest: dict[str, dict[int, int]] = {}  # topic -> partition -> log start
    estimated: dict[str, Any] | None = None  # quality while labels are missing, where they are asked for
    latency_p99_ms: float | None = None  # from an event's timestamp to its prediction, in the last minute

    def lag(self, topic: str) -> int:
        ends = self.ends.get(topic, {})
        return sum(end - self.position(topic, p) for p, end in ends.items())

    def position(self, topic: str, partition: int) -> int:
        """The next offset to be processed; where nothing was yet, the one that will be the first."""
        if topic == "examples":
            learned = int(self.learner["version"].rsplit("@", 1)[1]) if self.learner else 0
            return max(learned, examples_from(self.control).get(partition, 0))
        offsets = self.partitions[partition].offsets if partition in self.partitions else {}
        return offsets.get(topic, self.start(topic, partition))

    def start(self, topic: str, partition: int) -> int:
        """The first offset that this state reads or has read."""
        if topic == "examples":
            return examples_from(self.control).get(partition, 0)
        return Beginning.of(self.control).starts.get((topic, partition), self.oldest.get(topic, {}).get(partition, 0))

    def counts(self) -> dict[str, int]:
        return summed(meta.counts for meta in self.partitions.values())

    def label_coverage(self) -> float | None:
        """Labels that somebody gave, per prediction so far; None before the first."""
        return coverage_of(self.counts())


def read_status(settings: Settings, name: str, reads: str | None = None) -> PipelineStatus:
    """`reads`: as the pipeline has it. Raises Unavailable."""
    return asyncio.run(_read_status(settings, TopicNames(name, reads)))


async def _read_status(settings: Settings, names: TopicNames) -> PipelineStatus:
    name = names.prefix
    client = redis_client(**settings.redis())
    try:
        kafka = KafkaTopics(settings.kafka(), names)
        topics = kafka.describe().topics
        spans: dict[str, dict[int, tuple[int, int]]] = {
            topic: {p: kafka.offsets(topic, p) for p in range(topics[topic].partitions)}
            for topic in ("events", "labels", "examples")
            if topic in topics
        }
        oldest, ends = ({t: {p: span[i] for p, span in its.items()} for t, its in spans.items()} for i in (0, 1))
        partitions = {}
        for partition in ends.get("events", {}):
            meta = await client.hget(f"{{{name}:{partition}}}:state", "meta")
            partitions[partition] = msgspec.json.decode(meta, type=Meta) if meta else Meta()
        status = await RedisModelStore(client, name).status(0)
        control = dict(await RedisControl(client, name).describe())
        learner = msgspec.json.decode(status) if status else None
        estimated = None
        if learner is not None:
            asking = [meta.labelling.quality for meta in partitions.values() if meta.labelling is not None]
            estimated = estimate(asking, learner["metrics"]["task"])
        reports, _ = merged(await RedisTelemetry(client, name).reports(), int(time.time() * 1e3))
        return PipelineStatus(name, partitions, ends, learner, control, oldest, estimated, age_p99_ms(reports))
    except RedisError as error:
        raise Unavailable(f"Redis: {type(error).__name__}: {error}; check DRIFTLOOP_REDIS_URL") from error
    finally:
        await client.aclose()


def figure(value: Any) -> str:
    """A number for people; a dash for what is not defined yet."""
    if value is None:
        return "–"
    if isinstance(value, str | bool):
        return str(value).lower() if isinstance(value, bool) else value
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def safe(text: object) -> Text:
    """What comes from a record, for a terminal: no markup, and control characters as their escapes."""
    return Text("".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text)))


def words(key: str) -> str:
    """A figure's name as a heading."""
    return {"average_precision": "avg. precision", "recall_at_alert_share": "recall of alerts"}.get(
        key, key.replace("_", " ")
    )


def objectives_table(judged: Sequence[Judged]) -> Table:
    """What was promised, and whether it is kept."""
    table = Table(title="objectives", title_justify="left", box=SIMPLE_HEAD)
    for column in ("", "promised", "now", ""):
        table.add_column(column)
    for one in judged:
        style, word = {True: ("green", "kept"), False: ("bold red", "broken"), None: ("dim", "not known yet")}[one.kept]
        said = Text(word, style)
        if one.basis == UNBIASED:
            said.append("  of all events, by inverse propensity", "dim")
        table.add_row(words(one.name), one.wanted, figure(one.now), said)
    return table


def status_view(status: PipelineStatus, objectives: Sequence[Judged] = ()) -> Group:
    """One screen."""
    counts = status.counts()
    flow = Table(title=f"{status.name}: flow", title_justify="left")
    for column in ("events", "predictions", "labels", "examples", "dead letters", "lag events", "lag labels"):
        flow.add_column(column, justify="right")
    row = [counts.get(key, 0) for key in ("events", "predictions", "labels", "examples", "dead_letters")]
    flow.add_row(*map(figure, [*row, status.lag("events"), status.lag("labels")]))
    labels = Text("labels: " + (_listed(counts, "_labels") or "none"))
    dead = _listed(counts, "dead_letters.")
    if dead:
        labels.append(f"\ndead letters: {dead}", style="yellow")
    if counts.get("label_requests"):
        labels.append(f"\nasked: {counts['label_requests']:,} requests")
    if status.estimated is not None:
        labels.append("\n").append(estimate_text(status.estimated))
    if status.learner is None:
        return Group(flow, labels, Text("no model yet: start a learn worker", style="yellow"))
    learned = status.learner["counts"].get("learned", 0)
    model = Text(
        f"model {status.learner['version']}: learned {learned:,}, {status.learner['model_size_bytes']:,} bytes"
    )
    shown: list[Any] = [flow, labels, model]
    if trouble := _learner_trouble(status.learner["counts"]):
        shown.append(Text(f"learner: {trouble}", style="yellow"))
    if "drift" in status.learner:  # a learner of an earlier version says nothing of it
        shown.append(drift_line(status.learner["drift"]))
    if objectives:
        shown.append(objectives_table(objectives))
    if trial := status.learner.get("trial"):
        shown.append(Text(f"{trial['base']} is in {trial['stage']}; `driftloop models` shows how it stands"))
    shown.append(quality_table(status.learner["metrics"]))
    if "unbiased" in status.learner["metrics"]:
        shown.append(unbiased_text(status.learner["metrics"]["unbiased"]))
    if flagged := [f for f in status.learner.get("label_sources", {}).items() if f[1]["flagged"]]:
        shown += [
            Text(
                f"labels of {safe(source).plain}: others contradicted {its['contradicted']:,} of {its['labels']:,}",
                "yellow",
            )
            for source, its in flagged
        ]
    shown += [segment_table(name, its) for name, its in status.learner.get("segments", {}).items() if its]
    return Group(*shown)


def estimate_text(estimated: Mapping[str, Any]) -> Text:
    """How good the predictions are by their scores, while labels are missing, and how earlier estimates turned out."""
    text = Text(
        f"estimated without labels: accuracy {estimated['accuracy']:.3f} ({estimated['low']:.3f} to {estimated['high']:.3f}) "
        f"of the last {estimated['predictions']:,} predictions, {estimated['coverage']:.1%} of them labelled"
    )
    if turned_out := estimated.get("turned_out"):
        text.append(
            f"; before, {turned_out['expected']:.3f} was expected, {turned_out['accuracy']:.3f} turned out "
            f"({turned_out['labelled']:,} labels)"
        )
    return text


def unbiased_text(unbiased: Mapping[str, Any]) -> Text:
    """Of labels on request, each weighted by 1 / the probability that it was asked for."""
    parts = []
    for span, name in (("overall", "all"), ("window", "recent")):
        its = unbiased[span]
        parts.append(
            f"{name} {figure(its['model'])} (persistence {figure(its['persistence'])}, prior {figure(its['prior'])}; "
            f"{its['labels']:,} requested labels, worth {its['effective_labels']:,.0f})"
        )
    return Text(f"{unbiased['figure']} over all events, by inverse propensity: {'; '.join(parts)}")


def replay_view(
    counts: Mapping[str, int], learner: Mapping[str, Any], drifts: Sequence[Drift], seconds: float
) -> Group:
    """What a replay found."""
    events = counts.get("events", 0)
    lines = [
        f"{events:,} events, {counts.get('predictions', 0):,} predictions, {counts.get('dead_letters', 0):,} dead letters, "
        f"{learner['counts'].get('learned', 0):,} labels learned; {events / seconds:,.0f} events/s",
        f"labels: {_listed(counts, '_labels') or 'none'}",
    ]
    if dead := _listed(counts, "dead_letters."):
        lines.append(f"dead letters: {dead}")
    if trouble := _learner_trouble(learner["counts"]):
        lines.append(f"learner: {trouble}")
    shown: list[Any] = [Text("\n".join(lines)), quality_table(learner["metrics"])]
    shown += [segment_table(name, its) for name, its in learner["segments"].items() if its]
    shown += [drift_text(drift) for drift in drifts] or [Text("no drift")]
    return Group(*shown)


def exact_view(its: ExactReplay) -> Text:
    """Whether the predictions that were made anew are those that were served."""
    text = Text(f"{its.equal:,} of {its.predictions:,} predictions equal live's, byte for byte")
    text.append(f" ({its.versions:,} versions of the model built anew, {its.seconds:.1f} s)", style="dim")
    for count, what in (
        (its.only_live, "live predictions that the replay did not give"),
        (its.only_replayed, "predictions that live did not give"),
        (
            its.not_rebuilt,
            "live predictions of versions that cannot be built: a base's file or examples are gone; not compared",
        ),
    ):
        if count:
            text.append(f"\n{count:,} {what}", style="yellow")
    if its.first_difference:
        text.append("\nfirst difference: ").append(safe(its.first_difference).plain, style="bold red")
    return text


def drift_line(drift: Mapping[str, Any]) -> Text:
    """Whether the world is changing, and how many monitors know already what is usual."""
    if not drift["monitors"]:
        return Text("drift: not watched")
    text = Text(f"drift: {drift['episodes']} so far, {drift['ready']} of {drift['monitors']} monitors ready")
    if failures := drift.get("failures"):
        text.append(f"; the pipeline's own detector raised {failures:,} times", style="yellow")
    if drift["episode"]:
        text.append(f"; now {drift['episode']}", style="bold red")
    return text


def drift_text(drift: Drift) -> Text:
    """One drift on one line: what was noticed, since when, how much, and which features moved."""
    text = safe(f"{drift.drift_id}  ")
    text.stylize("cyan")
    where = f" where {drift.segment.replace('=', ' is ')}" if drift.segment else ""
    direction = "rose" if drift.after > drift.before else "fell"
    text.append(safe(f"{drift.signal}{where}").plain, style="bold")
    text.append(f" {direction} from {drift.before:.3f} to {drift.after:.3f}", style="bold")
    late = drift.to_offset - drift.from_offset
    text.append(
        f" ({drift.severity:.2f} sd) since example {drift.from_offset:,}, noticed {late:,} later", style="default"
    )
    if drift.moved:
        moved = ", ".join(f"{safe(m.feature)} {m.how.replace('_', ' ')} {m.shift:+.2f} sd" for m in drift.moved)
        text.append(f"; {moved}", style="default")
    return text


def segment_table(name: str, reports: Mapping[str, Any]) -> Table:
    """The model in every part of a segment, over the window."""
    table = Table(title=f"by {name}, recently", title_justify="left", box=SIMPLE_HEAD)
    table.add_column(name)
    table.add_column("labels", justify="right")
    keys = HEADLINE[next(iter(reports.values()))["task"]][:4]
    for key in (*keys, "skill_vs_prior"):
        table.add_column(words(key), justify="right")
    for value, report in sorted(reports.items(), key=lambda item: -item[1]["overall"]["labels"]):
        window = report["window"]
        figures = [*(window["model"].get(key) for key in keys), window["skill_vs_prior"]]
        table.add_row(safe(value), figure(report["overall"]["labels"]), *map(figure, figures))
    return table


def _learner_trouble(counts: Mapping[str, int]) -> str:
    """What a learner met that it should not have; empty if nothing."""
    met = [f"{words} {counts[name]:,}" for name, words in TROUBLE.items() if counts.get(name)]
    dead = _listed(counts, "dead_letters.")
    return ", ".join([*met, f"dead letters: {dead}"] if dead else met)


def _listed(counts: Mapping[str, int], part: str) -> str:
    """Counts whose name has the part, without it: "on_time 12, late 3"."""
    return ", ".join(f"{k.replace(part, '')} {v:,}" for k, v in sorted(counts.items()) if part in k)


def quality_table(metrics: Mapping[str, Any]) -> Table:
    """Model beside both baselines, over all labels and over the window."""
    table = Table(title="quality of served predictions", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("", no_wrap=True)
    for title in ("model", "persist.", "prior", "model, recent", "persist.", "prior"):
        table.add_column(title, justify="right")
    spans = (metrics["overall"], metrics["window"])
    table.add_row("labels", *(part for span in spans for part in (figure(span["labels"]), "", "")))
    for key in HEADLINE[metrics["task"]]:
        cells = [figure(span[system].get(key)) for span in spans for system in ("model", "persistence", "prior")]
        table.add_row(words(key), *cells)
    for baseline in ("persistence", "prior"):
        table.add_row(
            f"skill vs {baseline.replace('ence', '.')}",
            *(p for s in spans for p in (figure(s[f"skill_vs_{baseline}"]), "", "")),
        )
    return table


def prediction_line(value: Mapping[str, Any]) -> Text:
    """One prediction on one line: what, how sure, why, by which model, from where."""
    text = Text()
    text.append(f"{safe(value['event_id']).plain:>24}  ")
    prediction = value["prediction"]
    shown = f"{prediction:.3f}" if isinstance(prediction, float) else safe(str(prediction).lower()).plain
    text.append(f"{shown:>10}", style="bold red" if prediction is True else "bold")
    probabilities = value.get("probabilities") or {}
    if shown in probabilities:
        text.append(f" {probabilities[shown]:.3f}")
    if value.get("score") is not None:
        text.append(f" score {value['score']:.3f}")
    explanation = value.get("explanation")
    if explanation:
        top = ", ".join(f"{name} {part:+.2f}" for name, part in explanation["contributions"][:3])
        text.append(f"  {top}", style="dim")
    source = value["source"]
    text.append(
        f"  {value['model']['version']}  {source['topic']}-{source['partition']}@{source['offset']}", style="cyan"
    )
    return text
