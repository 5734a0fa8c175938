#!/bin/sh
# Renders manifests/operator.yaml from the chart, for people without helm.
#
#   manifests/render.sh            writes the file
#   manifests/render.sh --check    fails if the file is not what the chart gives
#
# HELM is the path of helm; by default the one of PATH, or the one that the tests build.
set -eu
cd "$(dirname "$0")/.."

built="${GREPTIME_CACHE:-$HOME/.cache/greptimecluster}/tools/bin/helm"
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
rendered=$(mktemp)
trap 'rm -f "$new" "$rendered"' EXIT
# A version of Kubernetes, because a helm that was built from its module alone takes itself to speak to an ancient one.
"$HELM" template greptime-operator charts/greptime-operator --namespace greptime-system --kube-version 1.34.0 >"$rendered"
{
  cat <<'HEADER'
# Rendered from charts/greptime-operator by manifests/render.sh; do not edit.
#
#   kubectl apply -f manifests/operator.yaml
#
# Deleting this file's objects deletes the definition, and with it every cluster. To remove the operator alone:
#   kubectl delete deployment,clusterrole,clusterrolebinding -A -l app.kubernetes.io/name=greptime-operator
apiVersion: v1
kind: Namespace
metadata:
  name: greptime-system
HEADER
  sed -e '/^ *helm.sh\/chart:/d' -e 's/^\( *app.kubernetes.io\/managed-by:\) Helm$/\1 kubectl/' "$rendered"
} >"$new"

if [ "${1:-}" = --check ]; then
  diff -u "$out" "$new" || { echo "render.sh: $out is not what the chart gives; run manifests/render.sh" >&2; exit 1; }
else
  cp "$new" "$out"
  chmod 644 "$out"
fi
