"""A question to a person whose answer is neither lost nor the end of the run.

Airflow 3.3's own operator has three holes, all found here by answering at once:
- An answer soon after the question makes the scheduler take the waiting task for a crashed one (#67287, #72716). The task
  fails, or with retries asks again and deletes the answer.
- An answer before the task waits is stored, and looked at only when the time-out is over.
- A task cannot read its own answer.
The scheduler does read it when a waiting task's time-out is over. So this operator waits in short turns, and a retry waits
again without asking again.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk.exceptions import TaskAwaitingInput

__all__ = ["AskOperator"]

TURN_MIN, TURN_MAX = timedelta(seconds=5), timedelta(seconds=120)


class AskOperator(HITLOperator):
    """As HITLOperator; give it retries: each answer that comes too soon costs one.

    Args:
        within: so long the question stands.
        otherwise: the option that is taken then; `responded_by_user` is None.
    """

    def __init__(self, *, within: timedelta, otherwise: str, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.within, self.otherwise = within, otherwise

    def execute(self, context: Any) -> Any:
        instance, store = context["task_instance"], context["task_state_store"]
        asked = store.get("asked")
        # A person who clears the task wants to be asked anew; Airflow then raises max_tries.
        if asked is None or asked["max_tries"] != instance.max_tries:
            asked = {"max_tries": instance.max_tries, "at": datetime.now(UTC).isoformat()}
            try:
                super().execute(context)
            except TaskAwaitingInput:
                store.set("asked", asked)
        self._wait(asked["at"])

    def execute_complete(self, context: Any, event: dict[str, Any], at: str = "") -> Any:
        if event.get("error_type") != "timeout":
            return super().execute_complete(context, event)
        now = datetime.now(UTC)
        if now - datetime.fromisoformat(at) < self.within:
            self._wait(at)
        return {
            "chosen_options": [self.otherwise],
            "params_input": {},
            "responded_at": now,
            "responded_by_user": None,
            "timedout": True,
        }

    def _wait(self, at: str) -> None:
        waited = datetime.now(UTC) - datetime.fromisoformat(at)
        turn = min(max(waited, TURN_MIN), TURN_MAX, max(self.within - waited, timedelta(seconds=1)))
        raise TaskAwaitingInput(method_name="execute_complete", kwargs={"at": at}, timeout=turn)
