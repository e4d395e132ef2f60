"""A user's pipeline file, loaded by its path."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from stream.errors import ConfigurationError
from stream.pipeline import Pipeline

__all__ = ["LoadedPipeline", "load_pipeline"]


class LoadedPipeline(NamedTuple):
    """The pipeline, and the names in its file that a model snapshot may refer to (`module:qualified name`)."""

    pipeline: Pipeline
    allowed: frozenset[str]


def load_pipeline(path: Path) -> LoadedPipeline:
    """Run the file and take its `Pipeline`, called `pipeline` or the only one there.

    Raises:
        ConfigurationError: no such file, it does not run, or it holds no pipeline.
    """
    if not path.is_file():
        raise ConfigurationError("pipeline file", str(path), "no such file")
    module = _run(path)
    found = [value for value in vars(module).values() if isinstance(value, Pipeline)]
    pipeline = getattr(module, "pipeline", None)
    if not isinstance(pipeline, Pipeline):
        if len(found) != 1:
            raise ConfigurationError(
                "pipeline file", str(path), "define one `pipeline = Pipeline(...)` at the top level"
            )
        pipeline = found[0]
    own = {
        f"{module.__name__}:{value.__qualname__}"
        for value in vars(module).values()
        if (inspect.isfunction(value) or inspect.isclass(value)) and value.__module__ == module.__name__
    }
    return LoadedPipeline(pipeline, frozenset(own))


def _run(path: Path) -> ModuleType:
    # A model may refer to functions of the file: its module needs the same name in every process.
    name = f"driftloop_pipeline_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigurationError("pipeline file", str(path), "it must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    # Files beside the pipeline may be imported by it.
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except ConfigurationError:
        raise
    except Exception as error:
        raise ConfigurationError("pipeline file", str(path), f"it raises {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    return module
