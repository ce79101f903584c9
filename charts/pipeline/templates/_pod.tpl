{{- define "forebay.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "forebay.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: {{ .Values.podDefaults.readOnlyRootFilesystem }}
capabilities: {drop: [ALL]}
{{- end -}}

{{/*
Volumes with Secrets, each to be mounted as a folder of its own. They are optional to the kubelet, so that a pod starts
without one, waits, says in its log and at /readyz which it misses, and goes on as soon as it is there. Takes a list of names.
*/}}
{{- define "forebay.secretVolumes" -}}
{{- range $index, $name := . }}
- name: secret-{{ $index }}
  secret: {secretName: {{ $name }}, defaultMode: 0440, optional: true}
{{- end }}
{{- end -}}

{{- define "forebay.secretMounts" -}}
{{- range $index, $name := . }}
- {name: secret-{{ $index }}, mountPath: /etc/forebay/secrets/{{ $name }}, readOnly: true}
{{- end }}
{{- end -}}

{{/*
Memory in MiB that a replica may come to need: interpreter, client and its queues; state caches; an embedded database.
Takes an entry.
*/}}
{{- define "forebay.memory" -}}
  {{- $memory := 512 -}}
  {{- if eq .kind "processor" -}}
    {{- range .stage.transforms -}}
      {{- if or (hasKey . "movingAverage") (dig "python" "stateful" false .) -}}
        {{- $memory = add $memory ($.stage.stateCacheMebibytes | default 256) -}}
      {{- end -}}
    {{- end -}}
  {{- else if .isKept -}}
    {{- $memory = add $memory (.stage.destination.duckdb.memoryLimitMb | default 512) -}}
  {{- end -}}
  {{- $memory -}}Mi
{{- end -}}

{{/*
Resources of a stage: its own, before the defaults of its kind, before what it may come to need.
*/}}
{{- define "forebay.resources" -}}
  {{- $pod := .entry.stage.pod | default dict -}}
  {{- $resources := mergeOverwrite (dict "requests" dict "limits" dict) (deepCopy (get .root.Values.podDefaults.resources .entry.kind)) (deepCopy ($pod.resources | default dict)) -}}
  {{- if not (hasKey $resources.requests "memory") -}}
    {{- $memory := $resources.limits.memory | default (include "forebay.memory" .entry) -}}
    {{- $_ := set $resources.requests "memory" $memory -}}
    {{- $_ := set $resources.limits "memory" $memory -}}
  {{- end -}}
  {{- toYaml $resources -}}
{{- end -}}

{{/*
The pod template of a stage. Takes root and entry.
*/}}
{{- define "forebay.podTemplate" -}}
{{- $values := .root.Values -}}
{{- $stage := .entry.stage -}}
{{- $pod := $stage.pod | default dict -}}
{{- $defaults := $values.podDefaults -}}
{{- $secrets := include "forebay.kafkaSecrets" .root | fromJsonArray -}}
{{- if dig "sasl" "users" "" $values.spec.kafka -}}
  {{- $secrets = append $secrets (printf "%s-kafka-user" .entry.name) -}}
{{- end -}}
{{- if eq .entry.kind "sink" -}}
  {{- $secrets = append $secrets (dig "postgres" "secretRef" "name" "" $stage.destination) | uniq | compact -}}
{{- end -}}
{{- $claim := dig "files" "claimRef" "name" "" $pod -}}
{{- $configMap := dig "files" "configMapRef" "name" "" $pod -}}
metadata:
  labels:
    {{- include "forebay.labels" . | nindent 4 }}
    {{- with $defaults.labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    checksum/pipeline: {{ include "forebay.checksum" .root }}
    {{- with $defaults.annotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ $defaults.terminationGracePeriodSeconds }}
  securityContext:
    {{- include "forebay.podSecurityContext" . | nindent 4 }}
  {{- with $values.images.pullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $defaults.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with $pod.nodeSelector | default $defaults.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $pod.tolerations | default $defaults.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $pod.affinity | default $defaults.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  topologySpreadConstraints:
    {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
    - topologyKey: {{ . }}
      maxSkew: 1
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "forebay.selector" $ | nindent 10 }}
    {{- end }}
  containers:
    - name: {{ .entry.kind }}
      image: {{ include "forebay.image" (dict "root" .root "service" .entry.kind "named" $pod.image) }}
      imagePullPolicy: {{ $values.images.pullPolicy }}
      securityContext:
        {{- include "forebay.securityContext" .root | nindent 8 }}
      env:
        - {name: FOREBAY_PIPELINE, value: /etc/forebay/pipeline/pipeline.yaml}
        - {name: FOREBAY_STAGE, value: {{ $stage.name | quote }}}
        - {name: FOREBAY_SECRETS, value: /etc/forebay/secrets}
        - {name: FOREBAY_DATA, value: /var/lib/forebay}
        - {name: FOREBAY_HTTP_PORT, value: "8080"}
        - {name: FOREBAY_LOG_FORMAT, value: json}
        - {name: FOREBAY_LOG_LEVEL, value: {{ $defaults.logLevel }}}
        {{- if eq .entry.workload "Deployment" }}
        - {name: FOREBAY_ORDINAL, value: "0"} # such a replica has no identity, and its name's end is no number
        {{- end }}
      terminationMessagePolicy: FallbackToLogsOnError # a crashed replica's last words stand in the pod's status
      ports:
        - {name: http, containerPort: 8080}
      startupProbe: # imports take a while on a busy node
        httpGet: {path: /livez, port: http}
        periodSeconds: 1
        timeoutSeconds: 3
        failureThreshold: 60
      livenessProbe: # the loop's heartbeat, never Kafka's reachability: a restart mends no broker
        httpGet: {path: /livez, port: http}
        periodSeconds: 15
        timeoutSeconds: 5
        failureThreshold: 3
      readinessProbe:
        httpGet: {path: /readyz, port: http}
        periodSeconds: 1 # an upgrade goes on as soon as a pod is ready
        timeoutSeconds: 3
        failureThreshold: 5
      resources:
        {{- include "forebay.resources" . | nindent 8 }}
      volumeMounts:
        - {name: pipeline, mountPath: /etc/forebay/pipeline, readOnly: true}
        {{- with include "forebay.secretMounts" $secrets | trim }}
        {{- . | nindent 8 }}
        {{- end }}
        - {name: tmp, mountPath: /tmp}
        {{- if .entry.isKept }}
        - {name: data, mountPath: /var/lib/forebay}
        {{- end }}
        {{- if $claim }}
        - {name: files, mountPath: {{ include "forebay.filesFolder" $stage }}, readOnly: true}
        {{- end }}
  volumes:
    - name: pipeline
      {{- if $configMap }}
      projected: # the file lies where its path, relative to the Pipeline file, says
        sources:
          - configMap: {name: {{ .root.Release.Name }}}
          - configMap:
              name: {{ $configMap }}
              items: [{key: {{ base $stage.source.file.path | quote }}, path: {{ clean $stage.source.file.path | quote }}}]
      {{- else }}
      configMap: {name: {{ .root.Release.Name }}}
      {{- end }}
    {{- with include "forebay.secretVolumes" $secrets | trim }}
    {{- . | nindent 4 }}
    {{- end }}
    - {name: tmp, emptyDir: {sizeLimit: 64Mi}}
    {{- if and .entry.isKept (not $pod.storage) }}
    - {name: data, emptyDir: {}}
    {{- end }}
    {{- if $claim }}
    - name: files
      persistentVolumeClaim: {claimName: {{ $claim }}, readOnly: true}
    {{- end }}
{{- end -}}

{{/*
The folder of a file source's path. Relative paths start at the Pipeline file.
*/}}
{{- define "forebay.filesFolder" -}}
  {{- $folder := dir .source.file.path -}}
  {{- isAbs $folder | ternary $folder (printf "/etc/forebay/pipeline/%s" $folder) | clean -}}
{{- end -}}
