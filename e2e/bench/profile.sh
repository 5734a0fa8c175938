#!/usr/bin/env bash
# e2e/bench/profile.sh BIN OUT: what the server does with its time, as text. BIN has greptime-node and greptime-bench with
# the names of their functions (profile `dist`); OUT is the file. Needs perf (Debian: linux-perf) and root.
#
# Each part is a run of the benchmark without peers, in which one thing dominates: so many rows without a query, or so many
# repetitions of one query that filling is little beside it. Times are of the processor, in the server alone.
set -eu
bin=$(realpath "$1") out=$(realpath -m "$2")
command -v perf > /dev/null || { echo "perf is missing: apt-get install linux-perf" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat > "$work/server" <<SERVER
#!/bin/sh
perf record -q -F 499 -p \$\$ -o "$work/\$(date +%s%N).data" > /dev/null 2>&1 &
sleep 0.5
exec "$bin/greptime-node" "\$@"
SERVER
chmod +x "$work/server"

# Symbols by what they are for; the first that matches counts.
groups() {
    awk -F'\t' '
        function group(name) {
            if (name ~ /\[k\]/) return "kernel: network, files, fsync, memory"
            if (name ~ /ZSTD|zstd|HUF_|FSE_|LZ4|lz4/) return "compression"
            if (name ~ /memcpy|memmove|memset|memcmp|bcmp/) return "copying and comparing memory"
            if (name ~ /malloc|free|calloc|realloc|mi_|je_/) return "allocator"
            if (name ~ /crc32|xxh|XXH|twox|hash/) return "checksums and hashes"
            if (name ~ /line_protocol|ingest|influx/) return "line protocol"
            if (name ~ /parquet/) return "Parquet"
            if (name ~ /greptime_datanode.*memtable/) return "memtable"
            if (name ~ /raft|greptime_log/) return "log"
            if (name ~ /greptime_datanode/) return "scan and engine, our own"
            if (name ~ /sqlparser|optimizer|logical_plan|planner/) return "planning SQL"
            if (name ~ /arrow|datafusion|hashbrown/) return "arrow and DataFusion"
            if (name ~ /hyper|h2|axum|tokio|tower|http|serde|json/) return "HTTP, JSON, runtime"
            return "other"
        }
        { share = $1; sub("%", "", share); sum[group($2)] += share }
        END { for (name in sum) printf "  %5.1f %%  %s\n", sum[name], name }
    ' | sort -k1,1nr
}

part() { # name, arguments of the benchmark
    local name=$1
    shift
    rm -f "$work"/*.data
    "$bin/greptime-bench" run --server "$work/server" --peers none --warm 0 --dir "$work/bench" --out "$work/report.json" "$@" > "$work/run.log" 2>&1 ||
        { tail -20 "$work/run.log" >&2; exit 1; }
    # The kernel's answer to the end of the server lets perf write what it has.
    for _ in $(seq 50); do pgrep -f "perf record -q -F 499.*$work" > /dev/null || break; sleep 0.2; done
    local data
    data=$(ls -S "$work"/*.data | head -1)
    perf report -i "$data" --stdio --no-children --sort symbol --percent-limit 0 -t $'\t' 2> /dev/null |
        grep -P '^\s*[0-9.]+%' | sed -E 's/^\s+//' > "$work/symbols"
    {
        echo "## $name"
        echo
        groups < "$work/symbols"
        echo
        head -12 "$work/symbols" | awk -F'\t' '{ printf "  %6s  %s\n", $1, substr($2, 1, 110) }'
        echo
    } >> "$work/text"
}

{
    echo "# Where the server's processor time goes: $(date -u +%F), $(git rev-parse --short HEAD), $(nproc) processors"
    echo "# by: make profile. First shares by what functions are for, then the functions with the largest shares."
    echo
} > "$work/text"
part "ingest: line protocol, 10 tags and 10 fields, every write synced" --hosts 400 --hours 24 --runs 1 --queries no-query
query() { # name, repetitions: some seconds of it
    part "query $1" --hosts 100 --hours 24 --runs "$2" --queries "$1"
}
query double-groupby-all 300
query high-cpu-all 300
query lastpoint 3000
query cpu-max-all-8 3000
query single-groupby-1-1-1 8000
# Nothing that was decoded is kept, so each is the first look at its pages.
GREPTIME__DATANODE__DECODED_CACHE_SIZE=4MiB query single-groupby-5-8-1 3000
mkdir -p "$(dirname "$out")"
cp "$work/text" "$out"
cat "$out"
