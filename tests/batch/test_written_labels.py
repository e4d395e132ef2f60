"""What people write into a form, in whatever JSON it comes: a label of the pipeline, or an error that says why not."""

from __future__ import annotations

from typing import Any

import pytest

from stream import Labels
from stream.batch.annotation import label_said
from stream.errors import ConfigurationError
from stream.lifecycle import CANNOT_TELL, SEND, SKIP
from tests.support.records import pipeline_of


def sent(written: Any) -> dict[str, Any]:
    return {"chosen_options": [SEND], "params_input": written}


@pytest.mark.parametrize(
    ("task", "label", "expected"),
    [
        ("regression", "12.5", 12.5), ("regression", " -3e2 ", -300.0), ("regression", 0, 0.0), ("regression", 0.25, 0.25),
        ("multiclass", "rot", "rot"), ("multiclass", 7, "7"), ("multiclass", " cat ", "cat"), ("binary", "True", True),
    ],
)  # fmt: skip
def test_a_fit_value_is_the_label(task: str, label: Any, expected: Any):
    found = label_said(pipeline_of(task=task), sent({"label": label}))
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize("task", ["regression", "multiclass", "binary"])
@pytest.mark.parametrize(
    "written", [{"label": v} for v in (None, "", "   ", ["a"], {"a": 1}, True, False)] + [{}, {"other": "1"}, None]
)
def test_an_unfit_value_is_refused_by_name(task: str, written: Any):
    with pytest.raises(ConfigurationError, match="label"):
        label_said(pipeline_of(task=task), sent(written))


@pytest.mark.parametrize("label", ["much", "nan", "inf", "1e999", "12,5"])
def test_a_number_is_finite(label: str):
    with pytest.raises(ConfigurationError, match="does not fit the task 'regression'"):
        label_said(pipeline_of(task="regression"), sent({"label": label}))


def test_declared_classes_are_kept_to_and_options_are_labels():
    pipeline = pipeline_of(task="multiclass", labels=Labels(wait="1m", classes=["a", "b"]))
    with pytest.raises(ConfigurationError, match=r"use one of labels.classes: a, b"):
        label_said(pipeline, sent({"label": "c"}))
    assert label_said(pipeline, {"chosen_options": ["b"], "params_input": {"label": "a"}}) == "b"
    for option in (CANNOT_TELL, SKIP):
        assert label_said(pipeline, {"chosen_options": [option], "params_input": {"label": "a"}}) is None
    assert label_said(pipeline, {"chosen_options": []}) is None
