"""Prints what pyarrow and DuckDB find in a Parquet file, as JSON: columns with their types, and rows.

Times and dates are numbers in their unit, bytes are hexadecimal, decimals are texts, so that both can be compared with
what was written.
"""

import json
import sys
from decimal import Decimal

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq


def plain(value):
    if isinstance(value, (bytes, bytearray)):
        return value.hex()
    if isinstance(value, Decimal):
        return format(value, "f")
    return value


def with_pyarrow(path):
    table = pq.read_table(path)
    columns = [[field.name, str(field.type)] for field in table.schema]
    arrays = []
    for column in table.columns:
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.int64())
        elif pa.types.is_date(column.type):
            column = column.cast(pa.int32())
        arrays.append([plain(value) for value in column.to_pylist()])
    return {"columns": columns, "rows": [list(row) for row in zip(*arrays)]}


def with_duckdb(path):
    source = "read_parquet('%s')" % path.replace("'", "''")
    described = duckdb.sql("DESCRIBE SELECT * FROM " + source).fetchall()
    columns = [[row[0], row[1]] for row in described]
    # DuckDB keeps milliseconds as microseconds; the file says what they were.
    nanoseconds = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
    units = {f.name: nanoseconds[f.type.unit] for f in pq.read_schema(path) if pa.types.is_timestamp(f.type)}
    wanted = []
    for name, kind in columns:
        quoted = '"%s"' % name.replace('"', '""')
        if kind.startswith("TIMESTAMP"):
            wanted.append("epoch_ns(%s) // %d" % (quoted, units[name]))
        elif kind == "DATE":
            wanted.append("datediff('day', DATE '1970-01-01', %s)" % quoted)
        else:
            wanted.append(quoted)
    rows = duckdb.sql("SELECT %s FROM %s" % (", ".join(wanted), source)).fetchall()
    return {"columns": columns, "rows": [[plain(value) for value in row] for row in rows]}


if __name__ == "__main__":
    file = sys.argv[1]
    json.dump({"pyarrow": with_pyarrow(file), "duckdb": with_duckdb(file)}, sys.stdout)
