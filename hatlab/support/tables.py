"""Tables as Parquet can hold them: what would be dropped, rounded or refused is kept, as text if need be."""

from __future__ import annotations

import io
import json
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["EXACT", "REFUSALS", "as_text", "scalar", "storable"]

EXACT: Final = 2**53  # a float holds every whole number up to here
REFUSALS: Final = (ValueError, TypeError, NotImplementedError, OverflowError)  # pyarrow's, and what it lets through


def storable(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table as it is written.

    The index becomes the first columns, unless it is whole numbers without a name, which only count the rows. A column
    that has no one type of Parquet, such as one of numbers and text, becomes text (`as_text`); gaps stay gaps.

    Raises:
        ValueError: naming a column that stands twice, or that cannot be written even so.
    """
    from pandas.api.types import is_integer_dtype

    index = table.index
    if any(name is not None for name in index.names) or not (index.empty or is_integer_dtype(index.dtype)):
        table = table.reset_index(allow_duplicates=True)
    twice = [name for name, n in Counter(map(str, table.columns)).items() if n > 1]
    if twice:
        raise ValueError(f"column {twice[0]!r} stands twice in it (an index with a name is a column, too)")
    table = table.copy(deep=False)
    for name in table:
        if not _has_one_type(table[name]):
            try:
                table[name] = table[name].astype(object).map(as_text, na_action="ignore")
                _write(table[name])
            except REFUSALS as error:
                raise ValueError(f"column {name!r} can be written neither as it is nor as text: {error}") from error
    return table


def as_text(value: Any) -> str:
    """Return how a value stands in a column of text: text as it is, all else as JSON or, where JSON has no such thing,
    as Python prints it."""
    if hasattr(value, "tolist"):  # NumPy's and torch's
        value = value.tolist()
    if isinstance(value, bool | int | float | list | tuple | dict):
        try:
            return json.dumps(value, default=str)
        except TypeError:  # a key that is no text
            pass
    return str(value)


def scalar(value: Any) -> Any:
    """Return a parameter's value as it stands in a cell: lists and mappings as JSON."""
    return json.dumps(value) if isinstance(value, list | dict) else value


def _has_one_type(column: pd.Series) -> bool:
    import numpy as np
    import pandas as pd
    import pyarrow as pa

    dtype = column.dtype
    if isinstance(dtype, np.dtype) and dtype.kind in "biufmM" and dtype.itemsize <= 8:
        return True
    if isinstance(dtype, pd.StringDtype):
        return True
    try:
        _write(column)
    except REFUSALS:
        return False
    if dtype != np.dtype(object):
        return True
    held = pa.array(column, from_pandas=True)
    if "struct" in str(held.type):  # which gives every mapping the keys of all
        return False
    # a column of whole numbers with gaps is read as one of floats
    gaps = pa.types.is_integer(held.type) and held.null_count
    return not (gaps and any(abs(value) > EXACT for value in column.dropna()))


def _write(column: pd.Series) -> None:
    column.to_frame("column").to_parquet(io.BytesIO(), index=False)
