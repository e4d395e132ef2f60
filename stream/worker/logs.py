"""How a worker's log lines look: text for people, or JSON for collectors. Codes are stable and explained in stream/codes.py."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

import msgspec

__all__ = ["JsonFormatter", "text_formatter"]


class JsonFormatter(logging.Formatter):
    """One JSON object per line: at (UTC), level, logger, code (null for most), message, and the error if there is one."""

    def __init__(self, role: str, pipeline: str | None = None) -> None:
        super().__init__()
        self._role = role
        self.pipeline = pipeline  # not known before its file is read

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "code": getattr(record, "code", None),
            "message": record.getMessage(),
            "role": self._role,
            "pipeline": self.pipeline,
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


def text_formatter() -> logging.Formatter:
    """A line for people; most have no code."""
    return logging.Formatter("%(asctime)s %(levelname)s %(name)s [%(code)s] %(message)s", defaults={"code": "-"})
