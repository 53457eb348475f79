{{- define "llamagen.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- /* Leaves room for the suffixes -api-keys and -dashboard: names of objects have at most 63 characters. */}}
{{- define "llamagen.fullname" -}}
{{- $name := include "llamagen.name" . }}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) }}
{{- default $full .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- end }}

{{- /* Labels that select the pods. They never change: a Deployment's selector is immutable. */}}
{{- define "llamagen.selectorLabels" -}}
app.kubernetes.io/name: {{ include "llamagen.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: server
{{- end }}

{{- define "llamagen.labels" -}}
app.kubernetes.io/name: {{ include "llamagen.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "llamagen.image" -}}
{{- with .Values.image }}
{{- .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag }}{{ end }}
{{- end }}
{{- end }}

{{- define "llamagen.serviceAccountName" -}}
{{- default (.Values.serviceAccount.create | ternary (include "llamagen.fullname" .) "default") .Values.serviceAccount.name }}
{{- end }}

{{- /* The server's environment: .Values.env, and defaults for names that are not in it. */}}
{{- define "llamagen.env" -}}
{{- /* A model directory is complete: the server never asks the hub. */}}
{{- $defaults := list (dict "name" "HF_HUB_OFFLINE" "value" "1") }}
{{- if and (not .Values.gpus) (dig "requests" "cpu" "" (default dict .Values.resources)) }}
{{- /* A process sees every core of the node and would start a thread for each. */}}
{{- $cores := dict "resourceFieldRef" (dict "containerName" "server" "resource" "requests.cpu") }}
{{- $defaults = append $defaults (dict "name" "OMP_NUM_THREADS" "valueFrom" $cores) }}
{{- $defaults = append $defaults (dict "name" "VLLM_CPU_OMP_THREADS_BIND" "value" "nobind") }}
{{- end }}
{{- $given := list }}
{{- range .Values.env }}
{{- $given = append $given .name }}
{{- end }}
{{- range $defaults }}
{{- if not (has .name $given) }}
{{- toYaml (list .) }}
{{ end }}
{{- end }}
{{- with .Values.env }}
{{- toYaml . }}
{{- end }}
{{- end }}

{{- /* Secret with the keys; empty if the server needs none. */}}
{{- define "llamagen.keysSecret" -}}
{{- if .Values.apiKeys.existingSecret }}
{{- .Values.apiKeys.existingSecret }}
{{- else if .Values.apiKeys.keys }}
{{- include "llamagen.fullname" . }}-api-keys
{{- end }}
{{- end }}

{{- /* Command that downloads the model; empty if nothing is downloaded. */}}
{{- define "llamagen.downloadCommand" -}}
{{- with .Values.model.download }}
{{- if .hub }}
{{- toYaml (list "hf" "download" .hub "--revision" .revision "--local-dir" "$(DIR)") }}
{{- else if .command }}
{{- toYaml .command }}
{{- end }}
{{- end }}
{{- end }}

{{- define "llamagen.modelsVolume" -}}
{{- if .Values.model.volume }}
{{- toYaml .Values.model.volume }}
{{- else if .Values.model.claim.size }}
persistentVolumeClaim: {claimName: {{ include "llamagen.fullname" . }}-models}
{{- else }}
emptyDir: {}
{{- end }}
{{- end }}
