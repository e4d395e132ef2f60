"""What the DAG files are made of. Lives where Airflow is installed; nothing here is heavy to import."""
