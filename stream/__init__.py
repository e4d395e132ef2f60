"""What a pipeline file imports, and nothing else; batch-trained models are in `stream.boosting`.

If you are here to read the code, start with messages.py, then core/scoring.py and core/learning.py, then
worker/score.py.
"""

from stream import entity, search_space
from stream.lifecycle import Labelling, Objectives, Retrain, Rollout
from stream.pipeline import Drift, Explain, Feature, Labels, Limits, Pipeline, number

__all__ = [
    "Drift",
    "Explain",
    "Feature",
    "Labelling",
    "Labels",
    "Limits",
    "Objectives",
    "Pipeline",
    "Retrain",
    "Rollout",
    "entity",
    "number",
    "search_space",
]
