"""What travels between the stages: one block a chunk, one row a block.

Ray Data splits and merges blocks by rows and bytes. A block of a single row can be neither split nor
merged, so packing a chunk into one row makes «one chunk in, one block out» hold by construction, and
a retried task cannot shift rows between blocks. The tables inside travel as Arrow IPC and are read
without a copy.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa


def pack(chunk: int, **fields: pa.Table | np.ndarray | bytes) -> pa.Table:
    """Pack the parts of one chunk into a block of one row.

    Args:
        chunk: Number of the chunk in the plan.
        fields: Tables (kept as Arrow IPC), uint8 arrays or bytes by column name.
    """
    columns: dict[str, pa.Array] = {"chunk": pa.array([chunk], pa.int64())}
    for name, value in fields.items():
        columns[name] = _large_binary(_ipc(value) if isinstance(value, pa.Table) else value)
    return pa.table(columns)


def chunk_number(block: pa.Table) -> int:
    """Return the number of the chunk that a block holds."""
    if block.num_rows != 1:
        raise ValueError(f"a block must hold exactly one chunk, got {block.num_rows} rows")
    number: int = block.column("chunk")[0].as_py()
    return number


def table_of(block: pa.Table, name: str) -> pa.Table:
    """Return the table packed as `name`; its buffers are views into the block."""
    return pa.ipc.open_stream(_buffer(block, name)).read_all()


def array_of(block: pa.Table, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the uint8 array packed as `name`, a read-only view of the given shape."""
    return np.frombuffer(_buffer(block, name), np.uint8).reshape(shape)


def bytes_of(block: pa.Table, name: str) -> bytes:
    """Return the bytes packed as `name`."""
    return bytes(_buffer(block, name))


def _buffer(block: pa.Table, name: str) -> pa.Buffer:
    # Not column[0].as_buffer() nor combine_chunks(): both copy the bytes, 38 MB for a chunk of pixels.
    column = next(chunk for chunk in block.column(name).chunks if len(chunk))
    _, offsets, data = column.buffers()
    first, last = np.frombuffer(offsets, np.int64)[column.offset : column.offset + 2].tolist()
    return data.slice(first, last - first) if data is not None else pa.py_buffer(b"")


def _ipc(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _large_binary(value: pa.Buffer | np.ndarray | bytes) -> pa.Array:
    data = value if isinstance(value, pa.Buffer) else pa.py_buffer(value)
    offsets = pa.py_buffer(np.array([0, data.size], np.int64))
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, [None, offsets, data])


def merge_seconds(*timings: Mapping[str, float]) -> dict[str, float]:
    """Add up seconds by stage.

    >>> merge_seconds({"fetch": 1.0}, {"fetch": 0.5, "model": 2.0})
    {'fetch': 1.5, 'model': 2.0}
    """
    total: dict[str, float] = {}
    for timing in timings:
        for stage, seconds in timing.items():
            total[stage] = total.get(stage, 0.0) + seconds
    return total
