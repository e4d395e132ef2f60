"""A retraining's release that fails for good after one retry: there is no such candidate. MLflow's store is in files, here only."""

import os
from datetime import timedelta

from airflow.sdk import DAG, task

from stream.airflow.pipelines import call, pipelines
from stream.airflow.retraining import defaults, run_name

found = pipelines()  # before: with other variables they would be loaded anew
os.environ["DRIFTLOOP_MLFLOW_TRACKING_URI"] = (
    f"file://{os.environ['DRIFTLOOP_ARTIFACT_URL']}-mlflow"  # MLflow finds no run below "artifacts"
)
os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"

for listed in found:
    if listed.name != "watched":
        continue
    with DAG("failing_tracked", schedule=None, default_args=defaults(listed)):

        @task(retries=1, retry_delay=timedelta(seconds=1))
        def release(file, ti=None):
            candidate = {"base": "00000000", "parent": "00000001"}
            verdict = {"why": "better", "figures": {}}
            if ti.try_number == 1:
                raise ConnectionError("for the moment")
            call("release", file, run_id=run_name(ti), candidate=candidate, verdict=verdict)

        release(listed.file)
