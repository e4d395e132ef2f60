# Three images: `worker` (command line, workers, batch steps), `airflow` (Airflow and what its tasks need) and `mlflow` (its server).
# Everything is pinned: the base here, Python packages in requirements/*.txt.
FROM python:3.12.11-slim-bookworm AS base
# LightGBM needs libgomp.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --create-home driftloop \
    && install --directory --owner driftloop --group driftloop /data /data/artifacts /data/archive /opt/airflow
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/driftloop \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /opt/driftloop

FROM base AS worker
COPY requirements/deploy.txt requirements/
RUN python -m venv /opt/venv && pip install --no-deps --requirement requirements/deploy.txt && python -m compileall -q /opt/venv
COPY LICENSE pyproject.toml ./
COPY schemas schemas
COPY stream stream
COPY examples examples
USER driftloop
ENTRYPOINT ["python", "-m", "stream.cli"]
CMD ["--help"]

FROM base AS airflow
COPY requirements/airflow.txt requirements/
RUN python -m venv /opt/venv && pip install --no-deps --requirement requirements/airflow.txt && python -m compileall -q /opt/venv
COPY LICENSE pyproject.toml ./
COPY schemas schemas
COPY stream stream
COPY examples examples
COPY dags dags
ENV AIRFLOW_HOME=/opt/airflow AIRFLOW__CORE__DAGS_FOLDER=/opt/driftloop/dags
USER driftloop
ENTRYPOINT ["python", "-m", "airflow"]
CMD ["--help"]

FROM base AS mlflow
COPY requirements/mlflow.txt requirements/
RUN python -m venv /opt/venv && pip install --no-deps --requirement requirements/mlflow.txt
USER driftloop
ENTRYPOINT ["mlflow"]
CMD ["--help"]
