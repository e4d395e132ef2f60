"""A pipeline file that does not load: it must not take the others' DAGs away."""

from stream import Pipeline

pipeline = Pipeline(name="broken", task="divination", features={}, model=None)  # type: ignore[arg-type]
