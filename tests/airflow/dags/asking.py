"""Six questions at once, and what was answered."""

from datetime import timedelta

from airflow.sdk import DAG, task

from stream.airflow.asking import AskOperator

with DAG("asking", schedule=None, max_active_tasks=2):

    @task
    def decide(answer: dict) -> str:
        return answer["chosen_options"][0]

    for number in range(6):
        asked = AskOperator(
            task_id=f"ask_{number}",
            subject="Release?",
            options=["Release", "Reject"],
            within=timedelta(minutes=10),
            otherwise="Reject",
            retries=3,  # with our trigger one is enough; Airflow's own waiting lost ten in a row on a busy machine
            retry_delay=timedelta(seconds=1),
        )
        decide.override(task_id=f"decide_{number}")(asked.output)

with DAG("nobody_answers", schedule=None):
    silent = AskOperator(
        task_id="ask", subject="Release?", options=["Release", "Reject"],
        within=timedelta(seconds=2), otherwise="Reject",
    )  # fmt: skip
    decide.override(task_id="decide")(silent.output)


class AskedTwice(AskOperator):
    """Its first try ends, as the scheduler ends it, after the question is put."""

    def execute(self, context):  # type: ignore[no-untyped-def]
        from airflow.sdk.exceptions import TaskAwaitingInput

        try:
            return super().execute(context)
        except TaskAwaitingInput:
            if context["task_instance"].try_number == 1:
                raise RuntimeError("taken for a crash") from None
            raise


with DAG("nobody_answers_nor_triggers", schedule=None):
    late = AskedTwice(
        task_id="ask", subject="Release?", options=["Release", "Reject"], retries=3, retry_delay=timedelta(seconds=1),
        within=timedelta(seconds=20), otherwise="Reject",
    )  # fmt: skip
    decide.override(task_id="decide")(late.output)

with DAG("slow", schedule=None):

    @task(retries=2, retry_delay=timedelta(seconds=1))
    def sleep(ti=None) -> int:  # type: ignore[no-untyped-def]
        import time

        if ti.try_number == 1:
            time.sleep(600)
        return ti.try_number

    sleep()
