"""No DAG: a pipeline file that does not load is an import error of this file, and the others' DAGs stay."""

from stream.airflow.pipelines import refuse_broken

refuse_broken()
