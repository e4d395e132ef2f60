"""A question to a person whose answer is not lost.

Airflow 3.3 (#67287, #72716): an answer within about `workers.min_heartbeat_interval` of the question makes the
scheduler take the waiting task for a crashed one. Its own operator then fails, or with retries asks again and deletes the
answer. The answer is still stored when the retry begins, so this operator looks there first.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk.execution_time.hitl import get_hitl_detail_content_detail

__all__ = ["AskOperator"]

FRESH = timedelta(minutes=5)  # an older answer was to a question that somebody has cleared, to be asked anew


class AskOperator(HITLOperator):
    """As HITLOperator; give it retries."""

    def execute(self, context: Any) -> Any:
        instance = context["task_instance"]
        if instance.try_number > 1:
            given = get_hitl_detail_content_detail(instance.id)
            if given.response_received and given.responded_at and datetime.now(UTC) - given.responded_at < FRESH:
                self.log.info("taking the answer that was given to the first attempt")
                event = {name: getattr(given, name) for name in ("chosen_options", "params_input", "responded_at")}
                return self.execute_complete(context, {**event, "responded_by_user": given.responded_by_user})
        return super().execute(context)
