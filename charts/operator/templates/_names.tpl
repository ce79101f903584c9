{{- define "operator.name" -}}
{{ .Release.Name | trunc 40 | trimSuffix "-" }}-operator
{{- end -}}

{{- define "operator.labels" -}}
{{ include "operator.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "operator.selector" -}}
app.kubernetes.io/name: forebay-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "operator.image" -}}
{{- with .Values.image -}}
{{ .name | default (printf "%s/forebay-operator:%s" .registry (.tag | default $.Chart.AppVersion)) }}
{{- end -}}
{{- end -}}

{{/*
The namespaces that are looked after, as a JSON list; empty where it is all of them.
*/}}
{{- define "operator.namespaces" -}}
{{- if .Values.clusterWide -}}
[]
{{- else -}}
{{ .Values.watchNamespaces | default (list .Release.Namespace) | uniq | toJson }}
{{- end -}}
{{- end -}}

{{- define "operator.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "operator.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "operator.environment" -}}
{{- $images := .Values.images -}}
- {name: FOREBAY_OPERATOR_NAMESPACES, value: {{ include "operator.namespaces" . | fromJsonArray | join "," | quote }}}
- name: FOREBAY_OPERATOR_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: FOREBAY_OPERATOR_IDENTITY
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- {name: FOREBAY_OPERATOR_LEASE, value: {{ include "operator.name" . }}}
- {name: FOREBAY_OPERATOR_MANAGED_USERS, value: {{ .Values.managedUsers | default false | quote }}}
- {name: FOREBAY_OPERATOR_LOG_FORMAT, value: json}
- {name: FOREBAY_OPERATOR_LOG_LEVEL, value: {{ .Values.logLevel }}}
- name: FOREBAY_OPERATOR_IMAGES
  value: {{ mergeOverwrite (deepCopy $images) (dict "tag" ($images.tag | default .Chart.AppVersion)) | toJson | quote }}
- name: FOREBAY_OPERATOR_POD_DEFAULTS
  value: {{ .Values.podDefaults | toJson | quote }}
{{- end -}}

{{/*
What the operator does, as rules of a Role: `rights` in forebay_operator/api.py, and a test compares them.
*/}}
{{- define "operator.rules" -}}
- apiGroups: [forebay.dev]
  resources: [pipelines]
  verbs: [get, list, watch, patch]
- apiGroups: [forebay.dev]
  resources: [pipelines/status]
  verbs: [patch]
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch{{ if .Values.managedUsers }}, create, patch, delete{{ end }}]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch, delete]
- apiGroups: [""]
  resources: [configmaps, services]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [statefulsets, deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end -}}
