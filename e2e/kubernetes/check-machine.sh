#!/bin/sh
# Says before an hour of building what would stop the laboratory after it.
set -eu
failed=0
complain() {
    echo "$1" >&2
    failed=1
}

[ "$(id -u)" = 0 ] || complain "the laboratory needs root, for network namespaces and mounts"
for program in cargo go python3 git; do
    command -v "$program" >/dev/null || complain "$program is missing; see README.md for what has to be there"
done
# In the mount table: device, place, type. "cgroup" is v1, "cgroup2" is v2.
if ! awk '$3 == "cgroup" { found = 1 } END { exit !found }' /proc/self/mounts; then
    complain "this machine has only cgroup v2; the laboratory needs the hierarchies of v1. Boot with
systemd.unified_cgroup_hierarchy=0 (with systemd 256 and 257 also SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1), or use a
cluster of your own: KUBECONFIG=... make test-e2e"
fi
exit "$failed"
