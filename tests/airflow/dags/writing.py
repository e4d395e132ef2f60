"""Labels that are written into a form, a number or a class that nobody declared, in whatever JSON they come."""

from datetime import timedelta

from airflow.sdk import DAG, Param, task

from stream.airflow.labelling import LabelOperator
from stream.lifecycle import CANNOT_TELL, SEND, SKIP

with DAG("writing", schedule=None, max_active_tasks=3):

    @task
    def read(response: dict, kind: str):  # type: ignore[no-untyped-def]
        from river import dummy

        from stream import Pipeline
        from stream.batch.annotation import label_said
        from stream.errors import ConfigurationError

        pipeline = Pipeline(
            name="written", task=kind, features={"x": float},
            model=lambda params: dummy.StatisticRegressor() if kind == "regression" else dummy.NoChangeClassifier(),
        )  # fmt: skip
        try:
            return label_said(pipeline, response)
        except ConfigurationError as error:
            return f"refused: {error}"

    for kind in ("regression", "multiclass"):
        for number in range(4 if kind == "regression" else 2):
            asked = LabelOperator(
                task_id=f"ask_{kind}_{number}",
                subject="What is it?",
                options=[SEND, CANNOT_TELL, SKIP],
                params={"label": Param("", type=["null", "string"], title="Label")},
                within=timedelta(minutes=10),
                otherwise=SKIP,
                retries=10,
                retry_delay=timedelta(seconds=1),
            )
            read.override(task_id=f"read_{kind}_{number}")(asked.output, kind)
