"""The archive of examples: one Delta table per pipeline, `<url>/<pipeline>/examples`, partitioned by shard.

Data and position are one commit: an append carries Delta's transaction identifier (`txn` of the Delta protocol) of its
shard, with the next offset as its version. A commit is refused if somebody else has committed that identifier since this
writer read it, so nothing is doubled; what was written and never committed is no part of the table.

Needs the extra `archive` (deltalake).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, cast

from arro3.core import Array, DataType, Table
from deltalake import CommitProperties, DeltaTable, QueryBuilder, Transaction, WriterProperties, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from stream.core.records import Record
from stream.core.tabulating import RECORD_COLUMNS, Column, Kind, tabulate
from stream.errors import Conflict, Unavailable

__all__ = ["ExampleArchive", "Extent"]

TOPIC_ID = "driftloop.topicId"
TYPES = {
    "long": DataType.int64(),
    "double": DataType.float64(),
    "boolean": DataType.bool(),
    "string": DataType.utf8(),
    "binary": DataType.binary(),
}
PROPERTIES = {
    # Statistics of these let readers skip files; of values and keys they would only be copies of what may be confidential.
    "delta.dataSkippingStatsColumns": "offset,timestamp_ms,occurred_at_ms",
}
ROW_GROUP = 20_000
SMALL_BYTES = 32_000_000
SMALL_FILES_MAX = 32
COMPACTED_BYTES = 128_000_000
WINDOW_START, WINDOW_MAX = 1_000, 20_000  # offsets read at once ...
WINDOW_BYTES = 32_000_000  # ... so that their keys and values have about so many bytes


class Extent(NamedTuple):
    """A range of rows: offsets [from, to), and the first and the last of their timestamps."""

    from_offset: int
    to_offset: int
    first_ms: int
    last_ms: int


class ExampleArchive:
    """The archive of one pipeline. Not for use by several threads; several processes are safe.

    All methods raise Unavailable if the storage does not answer or holds something that is not such a table.

    Args:
        url: a directory or an object-store URL; its credentials come from the environment as deltalake documents it.
        pipeline: the pipeline's name.
    """

    def __init__(self, url: str, pipeline: str) -> None:
        self.location = f"{url.rstrip('/')}/{pipeline}/examples"
        self._pipeline = pipeline
        self._table: DeltaTable | None = None

    def _app_id(self, shard: int) -> str:
        return f"driftloop.{self._pipeline}.examples-{shard}"

    def _refresh(self) -> DeltaTable | None:
        """The table as it is now; what is committed later conflicts with whatever others commit from now on."""
        try:
            if self._table is None:
                self._table = DeltaTable(self.location)
            else:
                self._table.update_incremental()
        except TableNotFoundError:
            self._table = None
        except (DeltaError, OSError) as error:
            raise self._unavailable("open", error) from error
        return self._table

    def _create(self, topic_id: str) -> DeltaTable:
        if "://" not in self.location:
            Path(self.location).mkdir(parents=True, exist_ok=True)
        columns = tabulate([], {})
        try:
            DeltaTable.create(
                self.location,
                schema=_arrow(0, columns).schema,
                mode="ignore",
                partition_by=["shard"],
                name=f"{self._pipeline}.examples",
                configuration={**PROPERTIES, TOPIC_ID: topic_id},
                raise_if_key_not_exists=False,
            )
        except (DeltaError, OSError) as error:
            if (table := self._refresh()) is None:  # else somebody else was faster
                raise self._unavailable("create", error) from error
            return table
        created = self._refresh()
        if created is None:
            raise Unavailable(f"archive {self.location}: it is not there, although it was just made")
        return created

    def claim(self, topic_id: str) -> str:
        """The id of the topic that this archive is of: Kafka makes a new one when a topic is made again.

        The first claim makes the table. An empty id: somebody appended without a claim.
        """
        table = self._refresh() or self._create(topic_id)
        return table.metadata().configuration.get(TOPIC_ID) or ""

    def end(self, shard: int) -> int:
        """Offset of the next example to archive; 0 if there is none of this shard."""
        table = self._refresh()
        if table is None:
            return 0
        position = table.transaction_version(self._app_id(shard))
        if position is None:  # none yet, or expired (delta.setTransactionRetentionDuration): the data knows, too
            (last,) = self._query(table, f'select max("offset") as last from examples where shard = {shard}')["last"]
            position = 0 if last is None else last + 1
        return position

    def topic_id(self) -> str | None:
        """Of the topic that this archive is of, empty if that is not known; None if there is no archive."""
        table = self._refresh()
        return None if table is None else table.metadata().configuration.get(TOPIC_ID) or ""

    def extent(self, shard: int, since_ms: int | None = None, until_ms: int | None = None) -> Extent | None:
        """Where the rows lie whose timestamps are in [since, until); None if there are none."""
        table = self._refresh()
        if table is None:
            return None
        bounds = [f"timestamp_ms >= {since_ms}"] if since_ms is not None else []
        bounds += [f"timestamp_ms < {until_ms}"] if until_ms is not None else []
        found = self._query(
            table,
            'select min("offset") as first, max("offset") as last, min(timestamp_ms) as first_ms, max(timestamp_ms) as last_ms '
            f"from examples where {' and '.join([f'shard = {shard}', *bounds])}",
        )
        first, last, first_ms, last_ms = (found[name][0] for name in ("first", "last", "first_ms", "last_ms"))
        return None if first is None else Extent(first, last + 1, first_ms, last_ms)

    def append(self, shard: int, records: Sequence[Record]) -> int:
        """Add records and move the end, in one commit; returns how many rows that made.

        Records before the end are there already: repeating a call, or one that overlaps another, adds only what is new.

        Args:
            records: of one shard's partition, offsets ascending.

        Raises:
            Conflict: somebody else has written meanwhile; nothing of this call is in the table.
            ValueError: offsets do not ascend.
        """
        if any(a.offset >= b.offset for a, b in pairwise(records)):
            raise ValueError("records must come in ascending order of their offsets, each once")
        end = self.end(shard)
        rows = [record for record in records if record.offset >= end]
        if not rows:
            return 0
        table = self._table or self._create("")
        transaction = Transaction(self._app_id(shard), rows[-1].offset + 1)
        try:
            write_deltalake(
                table,
                _arrow(shard, tabulate(rows, _kinds(table))),
                mode="append",
                schema_mode="merge",
                commit_properties=CommitProperties(app_transactions=[transaction]),
                writer_properties=_writer(),
            )
        except CommitFailedError as error:
            raise Conflict(
                f"archive {self.location}: somebody else wrote to it meanwhile, nothing of this was added; run it again "
                f"when the other has ended ({error})"
            ) from error
        except (DeltaError, OSError) as error:
            raise self._unavailable("append", error) from error
        return len(rows)

    def records(self, shard: int, from_offset: int, to_offset: int) -> Iterator[Record]:
        """The records with offsets in [from, to), ascending, as they lay on Kafka but for headers.

        The table as it was at the call is read; in memory are the records of a window of about 32 MB.
        """
        table = self._refresh()
        if table is None:
            return
        # A table of its own: appends of this object do not move it.
        table = DeltaTable(self.location, version=table.version())
        where = f'from examples where shard = {shard} and "offset" >= {{}} and "offset" < {to_offset}'
        (last,) = self._query(table, f'select max("offset") as last {where.format(from_offset)}')["last"]
        to_offset = from_offset if last is None else last + 1
        start, window = from_offset, WINDOW_START
        while start < to_offset:
            stop = min(start + window, to_offset)
            rows = self._query(
                table,
                f"select {', '.join(f'{chr(34)}{name}{chr(34)}' for name in RECORD_COLUMNS)} from examples "
                f'where shard = {shard} and "offset" >= {start} and "offset" < {stop} order by "offset"',
            )
            size = 0
            for offset, timestamp_ms, key, value in zip(*rows.values(), strict=True):
                size += len(key or b"") + len(value or b"")
                yield Record("examples", shard, offset, timestamp_ms, key, value)
            start = stop
            if not rows["offset"]:
                (start,) = self._query(table, f'select min("offset") as next {where.format(stop)}')["next"]
            else:
                window = int(min(window * 4, WINDOW_MAX, max(1, len(rows["offset"]) * WINDOW_BYTES / max(size, 1))))

    def compact(self, shard: int, *, small_files_max: int = SMALL_FILES_MAX) -> bool:
        """Make large files of small ones if there are many, and delete what no reader of the last week can need.

        Rows and the end stay as they are. Returns whether it was done; a writer that comes between wins.
        """
        table = self._refresh()
        if table is None:
            return False
        actions = table.get_add_actions(flatten=True)
        sizes = zip(actions["partition.shard"].to_pylist(), actions["size_bytes"].to_pylist(), strict=True)
        if sum(its == shard and size < SMALL_BYTES for its, size in sizes) <= small_files_max:
            return False
        try:
            table.optimize.compact(
                partition_filters=[("shard", "=", str(shard))],
                target_size=COMPACTED_BYTES,
                writer_properties=_writer(),
            )
            table.vacuum(dry_run=False, full=True)  # full: also of writers that were killed before they committed
        except CommitFailedError:
            return False
        except (DeltaError, OSError) as error:
            raise self._unavailable("compact", error) from error
        return True

    def _query(self, table: DeltaTable, sql: str) -> dict[str, list[Any]]:
        try:
            found = QueryBuilder().register("examples", table).execute(sql).read_all()
        except (DeltaError, OSError) as error:
            raise self._unavailable("read", error) from error
        return {name: cast(Any, found[name]).to_pylist() for name in found.column_names}

    def _unavailable(self, call: str, error: Exception) -> Unavailable:
        return Unavailable(f"archive {self.location}, {call}: {type(error).__name__}: {error}")


def _writer() -> WriterProperties:
    return WriterProperties(compression="ZSTD", max_row_group_size=ROW_GROUP)


def _kinds(table: DeltaTable) -> dict[str, Kind]:
    return {field.name: cast(Any, field.type).type for field in table.schema().fields if field.name != "shard"}


def _arrow(shard: int, columns: dict[str, Column]) -> Table:
    rows = len(columns["offset"].values)
    arrays: dict[str, Any] = {"shard": Array([shard] * rows, type=DataType.int32())}
    arrays.update((name, Array(column.values, type=TYPES[column.kind])) for name, column in columns.items())
    return Table.from_pydict(arrays)
