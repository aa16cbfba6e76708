"""The Parquet tables of a cell: a column a field of its records, their types fixed by the records' own, never guessed.

A table without rows, or with nulls alone in a column, so has the same columns as any other, and many cells are read as
one. Numbers are int64 (request ids uint64) and float64; what is no number, text or list of them is JSON text.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct, inspect

from multispin.campaign.cell_files import ConditionsRow
from multispin.campaign.folder import CELLS, CONDITIONS, FactorValue, factor_column
from multispin_models.energy.conditions import Conditions
from multispin_models.errors import ConfigError

__all__ = ["FACTOR_KINDS", "conditions_row", "read_conditions_rows", "write_table"]

FACTOR_KINDS: Final[dict[str, type]] = {
    "link": str,
    "users": int,
    "task": str,
    "temperature": float,
    "max_tokens": int,
    "policy": str,
    "schedule": str,
    "verification": str,
    "num_draft_tokens": int,
    "draft": str,
    "draft_entries": int,
}
_UNSIGNED: Final = ("wire_request_id",)


def write_table(
    path: Path,
    kind: type[Struct],
    records: Sequence[Struct],
    keys: Mapping[str, str | int],
    *,
    factors: Mapping[str, FactorValue] | None = None,
    more: Mapping[str, tuple[type, Sequence[Any]]] | None = None,
) -> None:
    """Write a table.

    Args:
        path: of the file.
        kind: of the records.
        records: the rows.
        keys: the same in every row, first.
        factors: levels of the cell; all of `FACTOR_KINDS` get a column, null where it is not concerned. Null for none.
        more: type and values of further columns.

    Raises:
        ConfigError: the extra is not installed.
    """
    try:
        import pyarrow as pa  # noqa: PLC0415 - an extra
        import pyarrow.parquet as pq  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(f"Parquet is not installed ({error}): pip install 'multispin[campaign]'") from error
    count = len(records)
    columns: dict[str, Any] = {}
    for name, key in keys.items():
        columns[name] = pa.array([key] * count, _plain(pa, type(key)))
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    rows = [msgspec.structs.asdict(record) for record in records]
    for field in info.fields:
        arrow = pa.uint64() if field.name in _UNSIGNED else _arrow(pa, field.type)
        columns[field.name] = pa.array([_cell(row[field.name], field.type) for row in rows], arrow)
    for name, (of, values) in (more or {}).items():
        columns[name] = pa.array(values, _plain(pa, of))
    if factors is not None:
        for name, of in FACTOR_KINDS.items():
            value = of(factors[name]) if name in factors else None
            columns[factor_column(name)] = pa.array([value] * count, _plain(pa, of))
    pq.write_table(pa.table(columns), path)


def conditions_row(end: str, conditions: Conditions) -> ConditionsRow:
    """Return the conditions of an end, flat."""
    known = [each for each in conditions.temperatures_c.values() if each is not None]
    frequencies = [each for each in conditions.frequencies_hz if each is not None]
    links = conditions.links
    return ConditionsRow(
        end=end,
        when=conditions.when,
        t_ns=conditions.t_ns,
        wall=conditions.wall,
        temperature_c=max(known, default=None),
        temperatures_c=json.dumps(conditions.temperatures_c),
        throttled=None if conditions.throttled is None else json.dumps(conditions.throttled),
        throttle_events=json.dumps(conditions.throttle_events),
        frequency_hz=sum(frequencies) / len(frequencies) if frequencies else None,
        frequencies_hz=conditions.frequencies_hz,
        governor=next(iter(conditions.governors), None),
        power_mode=conditions.power_mode,
        rssi_dbm=next((link.rssi_dbm for link in links if link.rssi_dbm is not None), None),
        link_rate_bps=next((link.rate_bps for link in links if link.rate_bps is not None), None),
        load_1min=conditions.load_1min,
        machine_busy_s=conditions.machine_busy_s,
        own_busy_s=conditions.own_busy_s,
        available_memory_bytes=conditions.available_memory_bytes,
        faults=json.dumps(conditions.faults),
    )


def read_conditions_rows(run: Path, cell_id: str) -> list[ConditionsRow]:
    """Return the conditions of a completed cell.

    Raises:
        ConfigError: the extra is not installed.
    """
    try:
        import pyarrow.parquet as pq  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigError(f"Parquet is not installed ({error}): pip install 'multispin[campaign]'") from error
    names = list(ConditionsRow.__struct_fields__)
    rows = pq.read_table(run / CELLS / cell_id / CONDITIONS, columns=names).to_pylist()
    return [msgspec.convert(row, ConditionsRow) for row in rows]


def _plain(pa: Any, of: type) -> Any:
    return {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}[of]


def _arrow(pa: Any, of: Any) -> Any:
    """Return the column's type for the type of a field."""
    of = _not_null(of)
    if isinstance(of, inspect.VarTupleType | inspect.ListType):
        return pa.list_(_arrow(pa, of.item_type))
    plain: Iterable[tuple[Any, Any]] = (
        (inspect.BoolType, pa.bool_()),
        (inspect.IntType, pa.int64()),
        (inspect.FloatType, pa.float64()),
        (inspect.StrType | inspect.LiteralType, pa.string()),
    )
    return next((arrow for kind, arrow in plain if isinstance(of, kind)), pa.string())


def _cell(value: Any, of: Any) -> Any:
    of = _not_null(of)
    if isinstance(of, inspect.StructType | inspect.DictType):
        return None if value is None else msgspec.json.encode(value).decode()
    return list(value) if isinstance(value, tuple) else value


def _not_null(of: Any) -> Any:
    """Return a type without its null."""
    if not isinstance(of, inspect.UnionType):
        return of
    [inner] = [part for part in of.types if not isinstance(part, inspect.NoneType)]
    return inner
