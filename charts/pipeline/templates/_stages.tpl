{{/*
All stages as a JSON list: kind, name of its objects, the stage itself, which workload it becomes, its least and most
replicas. A StatefulSet for what has an identity (a transactional.id per ordinal, a share of the simulated devices) or
a disk; a Deployment for the rest.
*/}}
{{- define "forebay.stages" -}}
  {{- $stages := list -}}
  {{- $release := .Release.Name -}}
  {{- range .Values.spec.producers -}}
    {{- $replicas := int (.replicas | default 1) -}}
    {{- $workload := or (hasKey .source "simulator") (hasKey .source "file") | ternary "StatefulSet" "Deployment" -}}
    {{- $stages = append $stages (dict "kind" "producer" "stage" . "workload" $workload "low" $replicas "high" $replicas) -}}
  {{- end -}}
  {{- range .Values.spec.processors -}}
    {{- $stages = append $stages (merge (dict "kind" "processor" "stage" . "workload" "StatefulSet") (include "forebay.bounds" . | fromJson)) -}}
  {{- end -}}
  {{- range .Values.spec.sinks -}}
    {{- $workload := hasKey .destination "duckdb" | ternary "StatefulSet" "Deployment" -}}
    {{- $stages = append $stages (merge (dict "kind" "sink" "stage" . "workload" $workload) (include "forebay.bounds" . | fromJson)) -}}
  {{- end -}}
  {{- range $stages -}}
    {{- $_ := set . "name" (printf "%s-%s" $release .stage.name) -}}
    {{- $_ := set . "isKept" (or (eq .kind "processor") (and (eq .kind "sink") (hasKey .stage.destination "duckdb"))) -}}
  {{- end -}}
  {{- $stages | toJson -}}
{{- end -}}

{{- define "forebay.bounds" -}}
  {{- $autoscaling := .autoscaling | default dict -}}
  {{- dict "low" (int ($autoscaling.minReplicas | default 1)) "high" (int ($autoscaling.maxReplicas | default 1)) | toJson -}}
{{- end -}}

{{/*
spec.replicas of one stage, or nothing where somebody else owns the field. Takes root and entry.
*/}}
{{- define "forebay.replicas" -}}
  {{- $live := dict -}}
  {{- if and (eq .entry.low .entry.high) (not (dig "autoscaling" "scaleToZero" false .entry.stage)) -}}
replicas: {{ .entry.low }}
  {{- else if not .root.Values.omitReplicas -}}
    {{- $live = lookup "apps/v1" .entry.workload .root.Release.Namespace .entry.name | default dict -}}
    {{- $replicas := dig "spec" "replicas" .entry.low $live | int -}}
    {{- if $replicas -}} {{- /* 0 is a person's word: the stage is paused */ -}}
      {{- $replicas = max .entry.low (min .entry.high $replicas) -}}
    {{- end -}}
replicas: {{ $replicas }}
  {{- end -}}
{{- end -}}

{{/*
Labels of a stage's objects; the selector's are among them and never change. Takes root and entry.
*/}}
{{- define "forebay.labels" -}}
{{ include "forebay.selector" . }}
{{ include "forebay.commonLabels" .root }}
app.kubernetes.io/component: {{ .entry.kind }}
{{- end -}}

{{- define "forebay.selector" -}}
app.kubernetes.io/name: forebay
app.kubernetes.io/instance: {{ .root.Release.Name }}
forebay.dev/stage: {{ .entry.stage.name | quote }}
{{- end -}}

{{/*
Labels of all objects of the release. No version: an upgrade of the chart alone would then restart every pod.
*/}}
{{- define "forebay.commonLabels" -}}
app.kubernetes.io/part-of: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Values.managedBy | default .Release.Service }}
forebay.dev/pipeline: {{ .Release.Name }}
{{- end -}}

{{/*
The image of a service. Takes root, service and the name that goes before all, if any.
*/}}
{{- define "forebay.image" -}}
  {{- $images := .root.Values.images -}}
  {{- $default := printf "%s/forebay-%s:%s" $images.registry .service (default .root.Chart.AppVersion $images.tag) -}}
  {{- coalesce .named (get $images .service) $default -}}
{{- end -}}
