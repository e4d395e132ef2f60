"""Model bytes: lean going out, and read back only through a list of named classes.

Lean: River's `proba.Gaussian` carries a Mersenne Twister state (2.5 kB) that no learner uses, one per feature, class and
leaf. Left out, snapshots are 9 to 130 times smaller.

Settled: the order in which Python runs through a set depends on how the set came about, and River sums and answers in
that order (`compose.Select`, the classes of a forest). Sets that are attributes are written sorted, so all copies of a
model run through theirs alike, however they were made; a learner therefore starts from a copy, too.

Safe: the unpickler resolves exact names only (`allowed_classes.py` and what the pipeline file itself defines), a raw
`getattr` is never among them, and nothing is decompressed beyond a bound. The signature (`snapshot.py`) comes first;
this is the second wall.
"""

from __future__ import annotations

import io
import pickle
import random
from typing import Any, NamedTuple

import zstandard
from river.proba import Gaussian

from stream.core.allowed_classes import RIVER_CLASSES
from stream.errors import SnapshotRefused

__all__ = ["dump_model", "load_model"]

SIZE_MAX_BYTES = 512 * 1024 * 1024
SETS = (set, frozenset)
OBJECT_REDUCE: Any = object.__reduce__
_UNUSED = random.Random(0)

OTHERS = frozenset(
    {
        ("builtins", "bool"),
        ("builtins", "complex"),
        ("builtins", "dict"),
        ("builtins", "float"),
        ("builtins", "frozenset"),
        ("builtins", "int"),
        ("builtins", "list"),
        ("builtins", "object"),
        ("builtins", "set"),
        ("builtins", "str"),
        ("builtins", "tuple"),
        ("collections", "Counter"),
        ("collections", "OrderedDict"),
        ("collections", "defaultdict"),
        ("collections", "deque"),
        ("copy", "deepcopy"),
        ("copyreg", "_reconstructor"),
        ("datetime", "date"),
        ("datetime", "datetime"),
        ("datetime", "timedelta"),
        ("functools", "partial"),
        ("numbers", "Number"),
        ("numpy", "dtype"),
        ("numpy", "ndarray"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "scalar"),
        ("numpy._core.numeric", "_frombuffer"),
        ("numpy.random._mt19937", "MT19937"),
        ("numpy.random._pickle", "__bit_generator_ctor"),
        ("numpy.random._pickle", "__randomstate_ctor"),
        ("numpy.random.bit_generator", "SeedSequence"),
        ("numpy.random.bit_generator", "__pyx_unpickle_SeedSequence"),
        ("random", "Random"),
        ("river._river_rust.vectordict", "euclidean_distance_dict"),
        ("river._river_rust.vectordict", "euclidean_distance_tuple"),
        ("river.feature_extraction.vectorize", "strip_accents_unicode"),
        ("river.forest.online_extra_trees", "ExtraTrees._detection_mode_all"),
        ("river.forest.online_extra_trees", "ExtraTrees._detection_mode_drop"),
        ("river.forest.online_extra_trees", "ExtraTrees._detection_mode_off"),
        ("river.naive_bayes.gaussian", "GaussianNB._make_gaussian"),
        ("river.tree.splitter.ebst_splitter", "EBSTNode._update_estimator_multivariate"),
        ("river.tree.splitter.ebst_splitter", "EBSTNode._update_estimator_univariate"),
        ("statistics", "NormalDist"),
        ("stream.boosting", "BoostedClassifier"),
        ("stream.boosting", "BoostedRegressor"),
        ("stream.core.drift_features", "Feature"),
        ("stream.core.drift_features", "Features"),
        ("stream.core.drift_series", "Ranks"),
        ("stream.core.drift_signals", "Scope"),
        ("stream.core.drift_series", "Series"),
        ("stream.core.drift_signals", "Signal"),
        ("stream.core.lean_pickle", "_gaussian"),
        ("stream.core.lean_pickle", "_set"),
    }
)
# getattr(an already built River object, one of these names): how bound methods are pickled.
BOUND_METHODS = frozenset(
    {
        "_calc_tau_0",
        "_calc_tau_1",
        "_calc_tau_2",
        "_leveraging_bag",
        "_leveraging_bag_me",
        "_leveraging_bag_half",
        "_leveraging_bag_wt",
        "_leveraging_subag",
        "_fixed_trigger",
        "_rand_gauss",
        "_rand_weights_for_feature",
        "_random_trigger",
        "_random_weights",
        "_scale",
        "_test_both",
        "_test_down",
        "_test_up",
        "_unscale",
        "clone",
    }
)


def dump_model(model: Any) -> bytes:
    """Pickled without what is never used, compressed (zstd, level 3).

    Raises SnapshotRefused when the model holds something that cannot be pickled, such as a lambda.
    """
    buffer = io.BytesIO()
    try:
        _LeanPickler(buffer).dump(model)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise SnapshotRefused(
            "snapshot_not_possible",
            f"the model cannot be written ({error}); use functions and classes defined at the top level of a module",
        ) from error
    return zstandard.ZstdCompressor(level=3).compress(buffer.getvalue())


def load_model(
    data: bytes, *, extra_allowed: frozenset[str] = frozenset(), size_max_bytes: int = SIZE_MAX_BYTES
) -> Any:
    """Read what `dump_model` wrote. `extra_allowed` holds `module:qualified name`.

    Raises SnapshotRefused: too large, damaged, or naming what is not allowed.
    """
    try:
        size = zstandard.frame_content_size(data)
    except zstandard.ZstdError as error:
        raise SnapshotRefused("snapshot_damaged", f"not a compressed model: {error}") from None
    if size < 0 or size > size_max_bytes:
        raise SnapshotRefused("snapshot_too_large", f"{size} bytes unpacked; at most {size_max_bytes}")
    try:
        raw = zstandard.ZstdDecompressor().decompress(data, max_output_size=size_max_bytes)
        return _AllowListUnpickler(io.BytesIO(raw), extra_allowed).load()
    except SnapshotRefused:
        raise
    except Exception as error:  # noqa: BLE001 - damaged bytes can raise anything
        raise SnapshotRefused("snapshot_damaged", f"{type(error).__name__}: {error}") from None


class _LeanPickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=5)
        self._sets: dict[int, _Sorted] = {}  # by id: one that two objects share stays one

    def reducer_override(self, value: Any) -> Any:
        kind = type(value)
        if kind is Gaussian:
            lean = {name: part for name, part in value.__dict__.items() if type(part) is not random.Random}
            return _gaussian, (lean,)
        if kind is _Sorted:
            return _set, (value.frozen, sorted(value.members, key=_rank))
        if kind.__dictoffset__ and kind.__reduce__ is OBJECT_REDUCE and kind is not type:
            for part in value.__dict__.values():
                if type(part) in SETS and len(part) > 1:
                    return self._settled(value)
        return NotImplemented

    def _settled(self, value: Any) -> Any:
        """As pickle would reduce it, but for the sets among its attributes."""
        reduced = value.__reduce_ex__(5)
        if len(reduced) < 3 or not isinstance(reduced[2], dict):
            return reduced
        state = {name: self._sorted(part) if type(part) in SETS else part for name, part in reduced[2].items()}
        return *reduced[:2], state, *reduced[3:]

    def _sorted(self, value: Any) -> _Sorted:
        return self._sets.setdefault(id(value), _Sorted(type(value) is frozenset, value))


class _Sorted(NamedTuple):
    """A set on its way out."""

    frozen: bool
    members: Any


def _rank(member: Any) -> tuple[str, Any]:
    return type(member).__name__, member if isinstance(member, str | int | float) else repr(member)


def _set(frozen: bool, members: list[Any]) -> Any:
    return frozenset(members) if frozen else set(members)


def _gaussian(state: dict[str, Any]) -> Gaussian:
    made: Gaussian = object.__new__(Gaussian)
    made.__dict__.update(state)
    made._rng = _UNUSED
    return made


class _AllowListUnpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, extra_allowed: frozenset[str]) -> None:
        super().__init__(file)
        self._extra_allowed = extra_allowed

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("builtins", "getattr"):
            return _bound_method
        allowed = (module, name) in OTHERS or name in RIVER_CLASSES.get(module, ())
        if not allowed and f"{module}:{name}" not in self._extra_allowed:
            raise SnapshotRefused("snapshot_class_not_allowed", f"{module}.{name} is not on the list")
        return super().find_class(module, name)

    def persistent_load(self, pid: Any) -> Any:
        raise SnapshotRefused("snapshot_damaged", "persistent ids are not used")


def _bound_method(owner: Any, name: str) -> Any:
    if name not in BOUND_METHODS or not type(owner).__module__.startswith("river.") or isinstance(owner, type):
        raise SnapshotRefused("snapshot_class_not_allowed", f"getattr(..., {str(name)[:64]!r}) is not allowed")
    return getattr(owner, name)
