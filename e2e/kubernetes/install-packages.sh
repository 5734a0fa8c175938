#!/bin/sh
# Installs the Debian packages that building and testing need. Needs root only
# when something is missing, and then takes a minute or two.
set -eu

# The laboratory's nodes; images; clients and a scraper for the demonstration;
# what the build of the Rust crates calls.
packages="
containerd runc containernetworking-plugins iptables conntrack iproute2 util-linux procps
e2fsprogs busybox-static openssl socat jq curl ca-certificates tzdata
postgresql-client default-mysql-client prometheus prometheus-node-exporter strace
mold clang cmake binutils protobuf-compiler libprotobuf-dev
"

missing=""
for package in $packages; do
    state=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

echo "installing:$missing"
if [ "$(id -u)" != 0 ]; then
    echo "this needs root: sudo $0" >&2
    exit 1
fi

# Some of the packages are services. Nothing is to start by itself: neither a
# containerd beside those of the nodes nor a Prometheus that nobody asked for.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT INT TERM
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi

export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086  # the list is words on purpose
apt-get install --yes --no-install-recommends -qq $missing
