"""Every error that driftloop raises on purpose.

    DriftloopError
    ├── ConfigurationError      the pipeline file or a setting is wrong        (fix it, start again)
    ├── StartupRefused          the world does not fit the stored state        (an operator decides)
    ├── RecordRejected          one record breaks a rule: it becomes a dead letter, nothing stops
    ├── SnapshotRefused         model bytes are not ours, damaged, or name a class that is not allowed
    ├── UpdateRefused           a learning step would have damaged the model; the model is unchanged
    ├── Fenced                  another owner has taken the partition; what this one holds is void
    ├── Conflict                a store holds another history than this writer remembers
    └── Unavailable             a server does not answer                       (retriable)

`retriable` says whether the same call may succeed later without anybody changing anything.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "ConfigurationError",
    "Conflict",
    "DriftloopError",
    "Fenced",
    "RecordRejected",
    "SnapshotRefused",
    "StartupRefused",
    "Unavailable",
    "UpdateRefused",
]


class DriftloopError(Exception):
    """The root of the tree."""

    retriable: ClassVar[bool] = False


class ConfigurationError(DriftloopError):
    """Names the key, the value and the remedy.

    >>> str(ConfigurationError("task", "clustering", "use one of: binary, multiclass, regression, anomaly"))
    "task = 'clustering': use one of: binary, multiclass, regression, anomaly"
    """

    def __init__(self, key: str, value: object, remedy: str) -> None:
        super().__init__(f"{key} = {value!r}: {remedy}")
        self.key = key
        self.value = value
        self.remedy = remedy


class StartupRefused(DriftloopError):
    """Starting would lose or corrupt data. `code` is stable and explained in stream/codes.py."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class RecordRejected(DriftloopError):
    """One input record breaks a rule. `code` goes into the dead letter's header; the message never quotes the payload."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class SnapshotRefused(DriftloopError):
    """Model bytes were refused before (signature, version) or while (allow-list) they were read."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class UpdateRefused(DriftloopError):
    """Learning from this example would leave a weight that is not finite."""


class Fenced(DriftloopError):
    """The epoch has moved on: another worker owns this partition."""


class Conflict(DriftloopError):
    """What is stored is not what this writer wrote or read last: somebody else has written."""


class Unavailable(DriftloopError):
    """No answer in time: the call may or may not have been applied."""

    retriable = True
