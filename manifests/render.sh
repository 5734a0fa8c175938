#!/bin/sh
# Renders manifests/operator.yaml from the chart, for people without helm.
#
#   manifests/render.sh            writes the file
#   manifests/render.sh --check    fails if the file is not what the chart gives
#
# HELM is the path of helm; by default the one of PATH, or the one that the tests build.
set -eu
cd "$(dirname "$0")/.."

built="${GREPTIMECLUSTER_CACHE:-$HOME/.cache/greptimecluster}/tools/helm"
if [ -z "${HELM:-}" ]; then
  if command -v helm >/dev/null; then HELM=helm
  elif [ -x "$built" ]; then HELM=$built
  else
    echo "render.sh: no helm: set HELM=/path/to/helm, or run 'make test-e2e' once, which builds it" >&2
    exit 1
  fi
fi

out=manifests/operator.yaml
new=$(mktemp)
trap 'rm -f "$new"' EXIT
{
  cat <<'HEADER'
# Rendered from charts/greptime-operator by manifests/render.sh; do not edit.
# The definition is too long for some annotations of client-side apply to be welcome; both ways work:
#   kubectl apply -f manifests/operator.yaml
#   kubectl apply --server-side -f manifests/operator.yaml
apiVersion: v1
kind: Namespace
metadata:
  name: greptime-system
HEADER
  "$HELM" template greptime-operator charts/greptime-operator --namespace greptime-system \
    | sed -e '/^ *helm.sh\/chart:/d' -e 's/^\( *app.kubernetes.io\/managed-by:\) Helm$/\1 kubectl/'
} >"$new"

if [ "${1:-}" = --check ]; then
  diff -u "$out" "$new" || { echo "render.sh: $out is not what the chart gives; run manifests/render.sh" >&2; exit 1; }
else
  cp "$new" "$out"
  chmod 644 "$out"
fi
