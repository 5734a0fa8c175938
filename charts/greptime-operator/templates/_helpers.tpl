{{- define "greptime-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 53 | trimSuffix "-" -}}
{{- end -}}

{{- define "greptime-operator.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 53 | trimSuffix "-" -}}
{{- else if contains (include "greptime-operator.name" .) .Release.Name -}}
{{- .Release.Name | trunc 53 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "greptime-operator.name" .) | trunc 53 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "greptime-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "greptime-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* app.kubernetes.io/managed-by is Helm's here: greptime-operator marks what the operator itself makes. */}}
{{- define "greptime-operator.labels" -}}
{{ include "greptime-operator.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* The selector's labels win: without them the deployment would not find its own pods. */}}
{{- define "greptime-operator.podLabels" -}}
{{- merge (dict) (include "greptime-operator.selectorLabels" . | fromYaml) (default dict .Values.podLabels) | toYaml -}}
{{- end -}}

{{/* A PodMonitor and these annotations together would have the pod scraped twice. The user's annotations win. */}}
{{- define "greptime-operator.podAnnotations" -}}
{{- $scrape := dict "prometheus.io/scrape" "true" "prometheus.io/port" "8080" -}}
{{- if .Values.metrics.podMonitor.enabled }}{{ $scrape = dict }}{{ end -}}
{{- with merge (dict) (default dict .Values.podAnnotations) $scrape }}{{ toYaml . }}{{ end -}}
{{- end -}}

{{/* The user's labels win: the Prometheus operator selects by them. */}}
{{- define "greptime-operator.podMonitorLabels" -}}
{{- $own := include "greptime-operator.labels" . | fromYaml -}}
{{- merge (dict) (default dict .Values.metrics.podMonitor.labels) $own | toYaml -}}
{{- end -}}

{{- define "greptime-operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "greptime-operator.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "greptime-operator.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* The namespaces that are served, separated by commas; empty means all. */}}
{{- define "greptime-operator.namespaces" -}}
{{- if .Values.watchNamespaces -}}
{{- join "," .Values.watchNamespaces -}}
{{- else if .Values.namespaced -}}
{{- .Release.Namespace -}}
{{- end -}}
{{- end -}}

{{/* What the operator may do where clusters are: the same rules in a ClusterRole or in Roles. */}}
{{- define "greptime-operator.rules" -}}
# The clusters themselves: to see them, and to hold one until its data is destroyed (a finalizer, by patch).
- apiGroups: ["greptimecluster.io"]
  resources: ["greptimeclusters"]
  verbs: ["get", "list", "watch", "patch"]
# What the operator tells about them. Nothing else of a cluster is ever written.
- apiGroups: ["greptimecluster.io"]
  resources: ["greptimeclusters/status"]
  verbs: ["patch"]
# Owner references with blockOwnerDeletion need this where that admission check is on (OpenShift).
- apiGroups: ["greptimecluster.io"]
  resources: ["greptimeclusters/finalizers"]
  verbs: ["update"]
# The pods of the three roles. Server-side apply creates through patch, which needs create too; get is for telling
# whether somebody else's object has the name.
- apiGroups: ["apps"]
  resources: ["statefulsets"]
  verbs: ["get", "list", "watch", "create", "patch", "delete"]
# How the roles are found, what they run with, and whom they run as.
- apiGroups: [""]
  resources: ["services", "configmaps", "serviceaccounts"]
  verbs: ["get", "list", "watch", "create", "patch", "delete"]
# At most one pod of a role is evicted at a time.
- apiGroups: ["policy"]
  resources: ["poddisruptionbudgets"]
  verbs: ["get", "list", "watch", "create", "patch", "delete"]
# Why a cluster is not ready is said by its pods. They are only read.
- apiGroups: [""]
  resources: ["pods"]
  verbs: ["list", "watch"]
# Whether a secret that a cluster names is there and has its keys. Only by name: never listed, never watched.
- apiGroups: [""]
  resources: ["secrets"]
  verbs: ["get"]
# deletionPolicy Delete: the job that empties the bucket's prefix and the etcd keys.
- apiGroups: ["batch"]
  resources: ["jobs"]
  verbs: ["get", "create", "patch"]
# deletionPolicy Delete: the datanodes' volumes.
- apiGroups: [""]
  resources: ["persistentvolumeclaims"]
  verbs: ["list", "delete"]
# deletionPolicy Delete: whether the namespace is going as well, in which no job can run.
- apiGroups: [""]
  resources: ["namespaces"]
  verbs: ["get"]
# Lines in `kubectl describe`; repeated ones are counted by patch.
- apiGroups: ["events.k8s.io"]
  resources: ["events"]
  verbs: ["create", "patch"]
{{- end -}}
