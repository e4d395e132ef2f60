"""A question to a person whose answer is neither lost nor the end of the run.

Airflow 3.3's own operator has three holes, all found here by answering at once:
- An answer soon after the question makes the scheduler take the waiting task for a crashed one (#67287, #72716). The task
  fails, or with retries asks again and deletes the answer. Where the answer is there already, each retry runs into the same.
- An answer before the task waits is stored, and looked at only when the time-out is over.
- A task cannot read its own answer.
The scheduler does read it when a waiting task's time-out is over. So this operator waits in short turns. A retry does not ask
again: it leaves the waiting to the triggerer, which can read answers and gives the scheduler time to see that the task has gone.
A dead triggerer ends nothing: such a task waits until one is back. A second parking would not do instead: where the answer is there
already, Airflow wakes the task before its process has ended, which is the first hole again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.providers.standard.triggers.hitl import HITLTrigger
from airflow.sdk.exceptions import TaskAwaitingInput
from airflow.triggers.base import TriggerEvent

__all__ = ["AnswerTrigger", "AskOperator"]

TURN_MIN, TURN_MAX = timedelta(seconds=5), timedelta(seconds=120)


class AskOperator(HITLOperator):
    """As HITLOperator; give it retries: an answer that comes too soon costs one.

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
        self.defer(
            trigger=AnswerTrigger(
                ti_id=instance.id,
                options=list(self.options),
                params={},  # so that nothing is checked there: `execute_complete` does
                timeout_datetime=datetime.fromisoformat(asked["at"]) + self.within,
            ),
            method_name="execute_complete",
            kwargs={"at": asked["at"]},
        )

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


class AnswerTrigger(HITLTrigger):
    """As HITLTrigger, which fires at once where the answer is there already: too soon for the scheduler."""

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return f"{__name__}.{type(self).__name__}", super().serialize()[1]

    async def run(self) -> AsyncIterator[TriggerEvent]:
        await asyncio.sleep(self.poke_interval)
        async for event in super().run():
            yield event
