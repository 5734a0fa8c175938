"""DuckDB or chDB in one long-lived process, on Parquet files.

Reads requests as JSON lines, answers as JSON lines, and measures itself: the time of a query is that of executing it
and of having its result as Arrow. Turning that into JSON for the comparison is not measured.
"""

import json
import sys
import time

import pyarrow as pa


class DuckDb:
    def __init__(self, files, _dir):
        import duckdb

        self.connection = duckdb.connect()
        names = ", ".join(f"'{file}'" for file in files)
        columns = self.connection.execute(f"SELECT * FROM read_parquet([{names}]) LIMIT 0").description
        kept = ", ".join(name for name, *_ in columns if not name.startswith("__"))
        self.connection.execute(f"CREATE VIEW cpu AS SELECT {kept} FROM read_parquet([{names}])")
        self.connection.execute("SET TimeZone = 'UTC'")

    def run(self, sql):
        return self.connection.sql(sql).to_arrow_table()


class ChDb:
    def __init__(self, files, directory):
        from chdb import session

        self.session = session.Session(directory)
        names = ",".join(files)
        source = f"file('{{{names}}}', Parquet)" if len(files) > 1 else f"file('{names}', Parquet)"
        rows = self.session.query(f"DESCRIBE TABLE {source}", "JSON")
        columns = [row["name"] for row in json.loads(str(rows))["data"]]
        kept = ", ".join(name for name in columns if not name.startswith("__"))
        self.session.query("CREATE DATABASE IF NOT EXISTS bench")
        self.session.query("USE bench")
        self.session.query(f"CREATE VIEW bench.cpu AS SELECT {kept} FROM {source}")

    def run(self, sql):
        data = self.session.query(sql, "ArrowStream").bytes()
        return pa.ipc.open_stream(data).read_all() if data else pa.table({})


def plain(column):
    """A column as JSON knows it: times as milliseconds, everything else as it is."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return plain(pa.chunked_array([c.dictionary_decode() for c in column.chunks], kind.value_type))
    if pa.types.is_timestamp(kind):
        per_ms = {"s": 0.001, "ms": 1, "us": 1000, "ns": 1000000}[kind.unit]
        return [None if v is None else v / per_ms for v in column.cast(pa.int64()).to_pylist()]
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return [None if v is None else v.decode() for v in column.to_pylist()]
    return column.to_pylist()


def times_of_chdb(table):
    """ClickHouse's DateTime, of seconds, comes as an unsigned number."""
    for number, field in enumerate(table.schema):
        if field.name == "bucket" and pa.types.is_unsigned_integer(field.type):
            seconds = table.column(number).cast(pa.int64())
            table = table.set_column(number, "bucket", seconds.cast(pa.timestamp("s")))
    return table


def main():
    name, directory, *files = sys.argv[1:]
    engine = {"duckdb": DuckDb, "chdb": ChDb}[name](files, directory)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            start = time.perf_counter()
            table = engine.run(request["sql"])
            seconds = time.perf_counter() - start
            reply = {"seconds": seconds, "rows": table.num_rows}
            if request["answer"]:
                table = times_of_chdb(table)
                reply["columns"] = table.column_names
                reply["data"] = [plain(column) for column in table.columns]
        except Exception as error:  # whatever it is, the benchmark reports it
            reply = {"error": f"{type(error).__name__}: {error}"[:500]}
        print(json.dumps(reply), flush=True)


main()
