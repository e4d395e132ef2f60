"""Every mistake in a pipeline file is refused with its key, its value and a remedy."""

from __future__ import annotations

from typing import Any

import pytest

from stream import Explain, Labels, Pipeline, Retrain, entity, number
from stream.errors import ConfigurationError
from stream.pipeline import Feature, Limits
from tests.support.records import logistic, pipeline_of


@pytest.mark.parametrize(
    ("changes", "key", "value", "remedy"),
    [
        ({"name": "Cards"}, "name", "Cards", "lower-case"),
        ({"name": "a" * 64}, "name", "aaaa", "at most 63"),
        ({"task": "clustering"}, "task", "clustering", "multiclass"),
        ({"features": {}}, "features", "{}", "declare at least one"),
        ({"features": {"amount": list}}, "features['amount']", "list", "float, int, str, bool"),
        ({"features": {"a b": float, "amount": float}}, "features['a b']", "a b", "letters, digits"),
        ({"features": {"amount": number(low=3, high=1)}}, "features['amount']", "(3, 1)", "below high"),
        ({"features": {"amount": number(low=float("nan"))}}, "features['amount']", "nan", "finite"),
        ({"features": {"amount": float, "s": Feature(type=str, low=1.0)}}, "features['s']", "str", "only numbers"),
        ({"features": {"amount": number(default="x")}}, "features['amount'].default", "x", "float"),  # type: ignore[arg-type]
        ({"model": "tree"}, "model", "tree", "build(params)"),
        ({"threshold": 1.0}, "threshold", "1.0", "between 0 and 1"),
        ({"seed": -1}, "seed", "-1", "from 0"),
        ({"seed": True}, "seed", "True", "whole number"),
        ({"explain": Explain(top=0)}, "explain", "top=0", "1..100"),
        ({"limits": Limits(entity_idle="1y")}, "limits.entity_idle", "1y", "7d"),
        ({"limits": Limits(tree_leaves_max=0)}, "limits.tree_leaves_max", "0", "from 1"),
        ({"labels": Labels(wait="0s")}, "labels.wait", "0s", "whole number"),
        ({"labels": Labels(keep_late="x")}, "labels.keep_late", "x", "whole number"),
        ({"labels": Labels(missing="default")}, "labels.default", "None", "binary"),
        ({"labels": Labels(default=False)}, "labels.default", "False", "missing='default'"),
        ({"labels": Labels(missing="maybe")}, "labels.missing", "maybe", "'none' or 'default'"),  # type: ignore[arg-type]
        ({"labels": Labels(classes=("a", "b"))}, "labels.classes", "('a', 'b')", "only for multiclass"),
        ({"task": "multiclass", "labels": Labels(classes=("a", "a"))}, "labels.classes", "'a'", "two or more"),
        ({"labels": Labels(early_max=-1)}, "labels.early_max", "-1", "0 to"),
        ({"labels": Labels(source_share_max={"person:": 2.0})}, "labels.source_share_max", "2.0", "person:"),
        ({"retrain": Retrain(metric="mae")}, "retrain.metric", "mae", "log_loss"),
        ({"labels": Labels(source_times_max={"person:": 0})}, "labels.source_times_max", "0", "trainee"),
        ({"entity_features": ["count"]}, "entity_features[0]", "count", "entity.count"),
        ({"entity_features": [entity.mean("amuont", "1h")]}, "entity_features[0].field", "amuont", "declared: amount"),
        ({"entity_features": [entity.count("1w")]}, "entity_features[0].window", "1w", "15m"),
        ({"entity_features": [entity.count("401d")]}, "entity_features[0].window", "401d", "1s to 400d"),
        ({"entity_features": [entity.count("1h", name="amount")]}, "entity_features[0].name", "amount", "taken"),
        ({"entity_features": [entity.count("1h"), entity.count("1h")]}, "entity_features[1].name", "count_1h", "taken"),
        ({"entity_features": [entity.custom("c", None)]}, "entity_features[0].function", "None", "function"),  # type: ignore[arg-type]
        # sections of the wrong kind
        ({"features": ["amount"]}, "features", "['amount']", "{'amount': float}"),
        ({"features": {3: float}}, "features[3]", "3", "letters, digits"),
        ({"features": {"amount": 5}}, "features['amount']", "5", "float, int, str, bool"),
        ({"params": ["lr"]}, "params", "['lr']", "dictionary"),
        ({"params": {1: 2}}, "params", "{1: 2}", "names"),
        ({"search_space": 3}, "search_space", "3", "dictionary"),
        ({"labels": "7d"}, "labels", "7d", "Labels("),
        ({"limits": {}}, "limits", "{}", "Limits("),
        ({"entity_features": entity.count("1h")}, "entity_features", "count_1h", "list"),
        ({"entity_features": "count"}, "entity_features", "count", "list"),
        ({"threshold": "0.5"}, "threshold", "0.5", "between 0 and 1"),
        # values that would be wrong only later
        ({"explain": Explain(top=2.5)}, "explain", "top=2.5", "1..100"),  # type: ignore[arg-type]
        ({"limits": Limits(tree_leaves_max="9")}, "limits.tree_leaves_max", "9", "whole number"),  # type: ignore[arg-type]
        ({"limits": Limits(snapshot_bytes_max=1e6)}, "limits.snapshot_bytes_max", "1000000.0", "whole number"),  # type: ignore[arg-type]
        ({"limits": Limits(future_ms_max=-5)}, "limits.future_ms_max", "-5", "from 0"),
        (
            {"limits": Limits(entity_idle="1s"), "entity_features": [entity.count("7d")]},
            "limits.entity_idle",
            "1s",
            "7d",
        ),
        ({"labels": Labels(early_max=2.0)}, "labels.early_max", "2.0", "whole number"),  # type: ignore[arg-type]
        ({"task": "multiclass", "labels": Labels(classes="abc")}, "labels.classes", "abc", "two or more"),  # type: ignore[arg-type]
        ({"task": "multiclass", "labels": Labels(classes=5)}, "labels.classes", "5", "two or more"),  # type: ignore[arg-type]
        ({"features": {"amount": number(default=float("nan"))}}, "features['amount'].default", "nan", "finite"),
        ({"features": {"amount": number(default=1e16)}}, "features['amount'].default", "1e+16", "1e15"),
        ({"features": {"a": Feature(type=int, default=10**16)}}, "features['a'].default", "10000", "1e15"),
        ({"features": {"s": Feature(type=str, default="x" * 300)}}, "features['s'].default", "xxx", "256"),
        ({"entity_features": [entity.last("amount", default="none")]}, "entity_features[0].default", "none", "float"),  # type: ignore[arg-type]
        (
            {"entity_features": [entity.mean("amount", "1h", default=None)]},
            "entity_features[0].default",
            "None",
            "number",
        ),  # type: ignore[arg-type]
        (
            {"entity_features": [entity.seconds_since_last(default=float("inf"))]},
            "entity_features[0].default",
            "inf",
            "finite",
        ),
        ({"entity_features": [entity.count(3)]}, "entity_features[0].window", "3", "15m"),  # type: ignore[arg-type]
        (
            {"entity_features": [entity.custom("c", len, state_bytes_max=0)]},
            "entity_features[0].state_bytes_max",
            "0",
            "from 1",
        ),  # type: ignore[arg-type]
        (
            {"entity_features": [entity.custom("c", len, initial={1, 2})]},
            "entity_features[0].initial",
            "{1, 2}",
            "lists",
        ),  # type: ignore[arg-type]
    ],
)
def test_a_mistake_names_key_value_and_remedy(changes: dict[str, Any], key: str, value: str, remedy: str):
    with pytest.raises(ConfigurationError) as caught:
        pipeline_of(**{"entity_features": (), **changes})
    text = str(caught.value)
    assert key in text
    assert value in text
    assert remedy in text


def test_a_number_is_asked_of_a_numeric_entity_feature():
    with pytest.raises(ConfigurationError, match=r"mean needs a float or int feature"):
        pipeline_of(features={"shop": str}, entity_features=[entity.mean("shop", "1h")])


def test_the_last_text_of_an_entity_may_have_a_text_for_a_default():
    last = entity.last("shop", default="none")
    assert pipeline_of(features={"shop": str}, entity_features=[last]).entity_features[0].default == "none"


def test_all_mistakes_are_named_at_once():
    with pytest.raises(ConfigurationError) as caught:
        Pipeline(name="X", task="guess", features={}, model=logistic)  # type: ignore[arg-type]
    for key in ("name =", "task =", "features ="):
        assert key in str(caught.value)


def test_the_fingerprint_changes_with_what_the_state_depends_on_and_only_with_that():
    base = pipeline_of()
    assert base.fingerprint("m") == pipeline_of(explain=False, threshold=0.4).fingerprint("m")
    different = [
        base.fingerprint("other model"),
        pipeline_of(seed=1).fingerprint("m"),
        pipeline_of(features={"amount": int}).fingerprint("m"),
        pipeline_of(features={"amount": number(high=5)}).fingerprint("m"),
        pipeline_of(entity_features=[entity.count("2m")]).fingerprint("m"),
        pipeline_of(labels=Labels(wait="2m")).fingerprint("m"),
        pipeline_of(limits=Limits(entity_idle="1d")).fingerprint("m"),
    ]
    assert len({base.fingerprint("m"), *different}) == len(different) + 1
