#!/bin/sh
# Installs the databases that the benchmark compares with, each from its usual
# registry and in a fixed version. What is there already is left alone. A peer
# that cannot be installed is named, and the others go on: the benchmark leaves
# out what is not there.
#
#     install-peers.sh DIRECTORY        (default: bench in the cache directory)
set -eu

here=${1:-${GREPTIME_CACHE:-$HOME/.cache/greptimecluster}/bench}
questdb=9.3.4
duckdb=2.0.1
chdb=4.4.0
pyarrow=26.0.1
missing=0
mkdir -p "$here"

failed() {
    echo "peer not installed: $1" >&2
    missing=$((missing + 1))
}

debian() {
    packages=""
    for package in victoria-metrics influxdb prometheus-node-exporter; do
        state=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null || true)
        [ "$state" = installed ] || packages="$packages $package"
    done
    [ -n "$packages" ] || return 0
    if [ "$(id -u)" != 0 ]; then
        echo "installing$packages needs root: sudo $0" >&2
        return 1
    fi
    # They are services; the benchmark starts them itself, and nothing else does.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap 'rm -f "$policy"' EXIT INT TERM
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    apt-get update -qq
    # shellcheck disable=SC2086  # the list is words on purpose
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends -qq $packages
}

java_program() {
    [ -e "$here/questdb-$questdb/done" ] && return 0
    work=$here/questdb-$questdb
    rm -rf "$work" && mkdir -p "$work"
    cat >"$work/pom.xml" <<POM
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>bench</groupId><artifactId>bench</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.questdb</groupId><artifactId>questdb</artifactId><version>$questdb</version></dependency>
  </dependencies>
</project>
POM
    mvn --batch-mode --quiet --file "$work/pom.xml" dependency:copy-dependencies -DoutputDirectory="$work/lib" || return 1
    touch "$work/done"
}

python_programs() {
    venv=$here/venv-duckdb-$duckdb-chdb-$chdb
    [ -e "$venv/done" ] && return 0
    rm -rf "$venv"
    python3 -m venv "$venv" || return 1
    "$venv/bin/pip" install --quiet "duckdb==$duckdb" "chdb==$chdb" "pyarrow==$pyarrow" || return 1
    touch "$venv/done"
}

debian || failed "victoria-metrics, influxdb, prometheus-node-exporter (Debian)"
java_program || failed "QuestDB $questdb (Maven Central)"
python_programs || failed "DuckDB $duckdb, chDB $chdb (PyPI)"
[ "$missing" = 0 ]
