"""What the score stage does about labels that it would like to have: asks, takes answers, estimates meanwhile."""

from __future__ import annotations

from typing import Any

from stream.core.estimating import note_label, note_prediction
from stream.core.querying import Querying, disagreement_of
from stream.core.remembering import LabellingState, Remembered
from stream.core.scores import uncertainty_of
from stream.messages import LabelRequest, LabelValue, Prediction
from stream.pipeline import Pipeline

__all__ = ["Labeller"]


class Labeller:
    """One partition's requests. Its decisions depend on the records and the models that scored them, on nothing else."""

    def __init__(self, pipeline: Pipeline, partition: int, partitions: int, state: LabellingState | None) -> None:
        labelling = pipeline.labelling
        assert labelling
        self._task = pipeline.task
        self._names = pipeline.feature_names
        self._estimates = pipeline.task in ("binary", "multiclass")
        self._expires_ms = labelling.expires_ms(pipeline.labels.wait_ms)
        self.state = LabellingState() if state is None else state
        self._querying = Querying(
            labelling,
            seed=pipeline.seed,
            partition=partition,
            partitions=partitions,
            segments=pipeline.segments,
            segment_values_max=pipeline.segment_values_max,
            state=self.state.query,
        )

    def sync(self) -> LabellingState:
        """The state, complete."""
        self._querying.sync()
        return self.state

    def scored(
        self,
        prediction: Prediction,
        other: tuple[Any, dict[str, float] | None] | None,
        features: dict[str, Any],
        half_width: float | None,
        watermark_ms: int,
        *,
        drifting: bool,
    ) -> tuple[float | None, LabelRequest | None]:
        """The probability with which this event was asked about, and the request; None, None: it is not.

        Args:
            other: prediction and probabilities of the model that was scored beside the one that answered.
        """
        probabilities = prediction.probabilities
        offset = prediction.source.offset
        if self._estimates:
            note_prediction(self.state.quality, self._task, offset, prediction.prediction, probabilities)
        utility = self._utility(prediction)
        disagreement = 0.0
        if other is not None:
            disagreement = disagreement_of((prediction.prediction, probabilities), other, half_width)
        asked = self._querying.decide(
            offset, prediction.occurred_at_ms, watermark_ms, utility, disagreement, drifting, features
        )
        if asked is None:
            return None, None
        return asked.propensity, LabelRequest(
            event_id=prediction.event_id,
            features=features,
            prediction=prediction.prediction,
            uncertainty=prediction.uncertainty,
            reason=asked.reason,
            expires_at_ms=prediction.occurred_at_ms + self._expires_ms,
            strategy=asked.strategy,
            propensity=asked.propensity,
            uniform=asked.uniform,
            probabilities=probabilities,
            score=prediction.score,
            model=prediction.model,
            explanation=prediction.explanation,
            source=prediction.source,
            occurred_at_ms=prediction.occurred_at_ms,
            requested_at_ms=prediction.scored_at_ms,
        )

    def _utility(self, prediction: Prediction) -> float:
        """How much the label would teach, 0 to 1."""
        if self._task == "anomaly":  # the strangest are what people would look at
            return 1.0 if prediction.score is None else min(1.0, max(0.0, prediction.score))
        if not self._estimates:
            return 1.0  # a number has no uncertainty that differs between events: the budget is spent evenly
        uncertainty, probabilities = prediction.uncertainty, prediction.probabilities
        if probabilities is None or len(probabilities) < 2 or uncertainty is None:
            return 1.0
        return self._querying.utility(uncertainty, len(probabilities))

    def labelled(self, remembered: Remembered, label: LabelValue) -> None:
        """The first label of an event has come."""
        beside = remembered.beside
        given = remembered if beside is None or not beside.answers else beside
        if self._estimates:
            if given.probabilities is not None and len(given.probabilities) > 1:
                uncertainty = uncertainty_of(given.probabilities, None)
                if uncertainty is not None:
                    self._querying.answered(uncertainty, right=given.prediction == label)
            note_label(
                self.state.quality,
                self._task,
                remembered.offset,
                given.prediction,
                given.probabilities,
                label,
                remembered.requested,
            )
        if remembered.requested is None:
            self._querying.unasked(dict(zip(self._names, remembered.features, strict=True)))
