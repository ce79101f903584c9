{{/*
Contradictions that values.schema.json cannot express, each a sentence with path and cure. All of them at once, as
`forebay validate` does, which knows more rules; here is what would otherwise show as pods that do not start.
*/}}
{{- define "forebay.check" -}}
  {{- $problems := include "forebay.problems" . | trim -}}
  {{- if $problems -}}
    {{- fail (printf "the Pipeline contradicts itself:\n%s" $problems) -}}
  {{- end -}}
{{- end -}}

{{- define "forebay.problems" -}}
{{- $release := .Release.Name -}}
{{- $spec := .Values.spec -}}
{{- if or (gt (len $release) 40) (not (regexMatch "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$" $release)) }}
the release's name {{ $release | quote }} names the Pipeline: use at most 40 lower-case letters, digits and '-'
{{- end }}
{{- $stages := include "forebay.stages" . | fromJsonArray -}}
{{- if not $stages }}
spec: has no stage: add an entry to producers, processors or sinks
{{- end }}
{{- $partitions := dict -}}
{{- range $spec.topics -}}
  {{- $_ := set $partitions .name (.partitions | default 0 | int) -}}
  {{- if and (not .partitions) (ne .management "External") }}
spec.topics: topic {{ .name | quote }} is Managed and has no partitions: add `partitions:`, or `management: External` if somebody else creates it
  {{- end }}
{{- end -}}
{{- $declared := keys $partitions | sortAlpha -}}
{{- $seen := dict -}}
{{- range $entry := $stages -}}
  {{- $stage := .stage -}}
  {{- $path := printf "spec.%ss: %s" .kind $stage.name -}}
  {{- if hasKey $seen $stage.name }}
{{ $path }}: another stage is called {{ $stage.name | quote }} already: rename one of them
  {{- end -}}
  {{- $_ := set $seen $stage.name true -}}
  {{- $longest := printf "%s-%d" .name (sub .high 1) -}}
  {{- if gt (len $longest) 52 }}
{{ $path }}: {{ $longest | quote }} (Pipeline, stage, replica) has {{ len $longest }} characters, Kubernetes takes 52: shorten the name of the stage or of the release
  {{- end -}}
  {{- range $end := list "from" "to" -}}
    {{- $topic := get $stage $end -}}
    {{- if and $topic (not (hasKey $partitions $topic)) }}
{{ $path }}: {{ $end }}: topic {{ $topic | quote }} is not declared in spec.topics: declare it there, or use one of {{ join ", " $declared }}
    {{- end -}}
  {{- end -}}
  {{- if gt .low .high }}
{{ $path }}: minReplicas {{ .low }} is more than maxReplicas {{ .high }}: raise maxReplicas or lower minReplicas
  {{- end -}}
  {{- $available := get $partitions ($stage.from | default "") | default 0 -}}
  {{- if and $available (gt (int .high) (int $available)) }}
{{ $path }}: maxReplicas {{ .high }} is more than the {{ $available }} partitions of {{ $stage.from | quote }}, and a replica without a partition idles: lower it to {{ $available }}, or give the topic more partitions
  {{- end -}}
  {{- if and (eq .kind "sink") .isKept (gt (int .high) 1) }}
{{ $path }}: maxReplicas {{ .high }} and destination duckdb exclude each other, for one process alone can write the file: set maxReplicas to 1, or use postgres
  {{- end -}}
  {{- $pod := $stage.pod | default dict -}}
  {{- if and $pod.storage (not .isKept) }}
{{ $path }}: processors and duckdb sinks alone keep something on disk: remove pod.storage
  {{- end -}}
  {{- $file := dig "source" "file" dict $stage -}}
  {{- if and $file (gt (int .high) 1) }}
{{ $path }}: {{ .high }} replicas would each send the whole file: set replicas to 1
  {{- end -}}
  {{- if and $pod.files (not $file) }}
{{ $path }}: only a producer with a file source reads files: remove pod.files
  {{- else if $pod.files -}}
    {{- $folder := clean $file.path | dir -}}
    {{- if or (hasPrefix ".." $folder) (and (isAbs $file.path) (hasKey $pod.files "configMapRef")) }}
{{ $path }}: path {{ $file.path | quote }} lies outside the folder of the Pipeline file, where pod.files.configMapRef puts it: use a relative path below it
    {{- else if and (hasKey $pod.files "claimRef") (eq $folder ".") }}
{{ $path }}: path {{ $file.path | quote }} has no folder, as which pod.files.claimRef could be mounted: put one in front, e.g. data/{{ base $file.path }}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- if and $spec.kafka.sasl (not (hasKey $spec.kafka "tls")) }}
spec.kafka.sasl: sasl without tls would send the password in the clear: add `tls: {}` (or tls with a caSecretRef)
{{- end }}
{{- if and $spec.kafka.adminSecretRef (not $spec.kafka.sasl) }}
spec.kafka.adminSecretRef: a login needs a mechanism: add sasl, or remove adminSecretRef
{{- end }}
{{- if dig "sasl" "users" "" $spec.kafka }}
  {{- if not $spec.kafka.adminSecretRef }}
spec.kafka.sasl.users: managed users are made by an administrator: add adminSecretRef, with a user that may do so
  {{- end }}
  {{- if not (or .Values.managedBy .Values.pipeline.create) }}
spec.kafka.sasl.users: the operator makes managed users: set pipeline.create where it runs, or use a secretRef
  {{- end }}
{{- end }}
{{- end -}}
