"""A file with answers, as a spreadsheet may write it."""

from __future__ import annotations

import csv
from pathlib import Path

from stream.batch.label_requests import OpenRequest
from stream.cli.labelling import read_answers, write_requests
from stream.messages import LabelRequest
from tests.support.records import pipeline_of

ODD = 'one\u2028two\u2029three\x85four\x0bfive\x0csix\x1cseven, "eight"\r\nnine\rten'


def test_a_text_with_any_line_separator_in_it_is_one_cell(tmp_path: Path):
    pipeline = pipeline_of(entity_features=(), features={"amount": float, "what": str})
    requests = [
        OpenRequest(b"card", 0, LabelRequest(
            event_id=f"e{number}", features={"amount": 1.0, "what": ODD}, prediction=True, uncertainty=0.4, reason="uncertain",
            expires_at_ms=10**15, requested_at_ms=number,
        ))
        for number in range(3)
    ]  # fmt: skip
    path = tmp_path / "requests.csv"
    write_requests(pipeline, path, requests)
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["what"] for row in rows] == [ODD] * 3
    rows[0]["label"], rows[2]["label"] = "true", "?"
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        out = csv.DictWriter(file, rows[0])
        out.writeheader()
        out.writerows(rows)
    answers, passed_over = read_answers(pipeline, path, requests)
    assert [(one.asked.request.event_id, one.label) for one in answers] == [("e0", True), ("e2", None)]
    assert passed_over == 1
