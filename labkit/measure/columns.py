"""Arrow columns as numpy arrays, and what stands for null in each."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Select = Bools | Ints
UNKNOWN: Final = -1


def ints(table: pa.Table, name: str, missing: int = 0) -> Ints:
    """A column as int64, with ``missing`` for null."""
    column = table.column(name)
    if column.null_count:
        column = column.fill_null(pa.scalar(missing, column.type))
    return np.asarray(column.to_numpy(), dtype=np.int64)


def floats(table: pa.Table, name: str) -> Floats:
    """A column as float64, with NaN for null."""
    return np.asarray(table.column(name).cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)


def bools(table: pa.Table, name: str) -> Bools:
    """A column as bool."""
    return np.asarray(table.column(name).to_numpy(), dtype=np.bool_)


def equals(table: pa.Table, name: str, value: str) -> Bools:
    """Where a text column holds ``value``; null does not."""
    found = pc.fill_null(pc.equal(table.column(name), value), False)
    return np.asarray(found.to_numpy(), dtype=np.bool_)
