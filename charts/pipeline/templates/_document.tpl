{{/*
The Pipeline file, as the pods and `forebay apply` read it.
*/}}
{{- define "forebay.document" -}}
apiVersion: forebay.dev/v1alpha1
kind: Pipeline
metadata:
  name: {{ .Release.Name }}
  namespace: {{ .Release.Namespace }}
spec:
  {{- toYaml .Values.spec | nindent 2 }}
{{- end -}}

{{/*
Changes when a pod would do something else after a restart. Bounds of scaling and placement of pods are left out, so that
changing those restarts no pod that need not be.
*/}}
{{- define "forebay.checksum" -}}
  {{- $spec := deepCopy (omit .Values.spec "workloads" "deletionPolicy") -}}
  {{- range $stage := concat ($spec.producers | default list) ($spec.processors | default list) ($spec.sinks | default list) -}}
    {{- $_ := unset $stage "autoscaling" -}}
    {{- $_ := unset $stage "pod" -}}
  {{- end -}}
  {{- $_ := unset ($spec.kafka.sasl | default dict) "rotateEvery" -}}
  {{- list .Release.Name .Release.Namespace $spec | toJson | sha256sum -}}
{{- end -}}

{{/*
The Secrets that every login to Kafka needs, as a JSON list of names. The managed user of a stage has one of its own beside them.
*/}}
{{- define "forebay.kafkaSecrets" -}}
  {{- $kafka := .Values.spec.kafka -}}
  {{- list
        (dig "tls" "caSecretRef" "name" "" $kafka)
        (dig "tls" "clientCertificateSecretRef" "name" "" $kafka)
        (dig "sasl" "secretRef" "name" "" $kafka)
      | uniq | compact | toJson -}}
{{- end -}}
