"""Who labels, and how often others say otherwise."""

from __future__ import annotations

from typing import Any

from stream.messages import Example

__all__ = ["LabelSources"]

SOURCES_MAX = 100  # told apart; all others are one
OTHER = "(other)"
LABELS_MIN = 20
CONTRADICTED_MAX = 0.1  # a source is flagged above this share


class LabelSources:
    """Counts per label source: [first labels, of them contradicted by another source, contradictions of others' labels].

    A source that says nothing else than the first label said leaves no trace: only first labels and corrections are examples.
    """

    def __init__(self, counts: dict[str, list[int]] | None = None) -> None:
        self.counts: dict[str, list[int]] = {} if counts is None else counts

    def update(self, example: Example) -> None:
        """Take an example of any kind, in order."""
        if example.timing != "correction":
            self._of(example.label_source)[0] += 1
        elif example.previous_source is not None and example.previous_source != example.label_source:
            self._of(example.previous_source)[1] += 1
            self._of(example.label_source)[2] += 1

    def _of(self, source: str) -> list[int]:
        counts = self.counts
        if source not in counts:
            if len(counts) >= SOURCES_MAX:
                source = OTHER
            counts.setdefault(source, [0, 0, 0])
        return counts[source]

    def report(self) -> dict[str, Any]:
        """JSON by source; `flagged`: look at its labels, `driftloop unlearn` can take them out."""
        return {
            source: {
                "labels": labels,
                "contradicted": contradicted,
                "contradicts": contradicts,
                "flagged": labels >= LABELS_MIN and source != "default" and contradicted > CONTRADICTED_MAX * labels,
            }
            for source, (labels, contradicted, contradicts) in self.counts.items()
        }
