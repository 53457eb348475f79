{{- /* Rules about several values at once, or about secret ones; values.schema.json has the others. */}}
{{- define "llamagen.checks" -}}
{{- $name := include "llamagen.fullname" . }}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) }}
{{- fail (printf "the Service would be called %s: its name must start with a letter, have only a-z, 0-9 and -, and not end with -; set fullnameOverride" $name) }}
{{- end }}
{{- $set := dict "host" "to 0.0.0.0" "port" "by service.port" "shutdown-timeout" "by drain.timeoutSeconds" }}
{{- $set = merge $set (dict "api-key" "by apiKeys" "api-key-file" "by apiKeys" "tensor-parallel-size" "by gpus" "tp" "by gpus") }}
{{- range .Values.args }}
{{- $flag := regexFind "^-[^=]*" . }}
{{- with get $set ($flag | trimAll "-" | replace "_" "-") }}
{{- fail (printf "args has %s, which the chart sets %s" $flag .) }}
{{- end }}
{{- end }}
{{- with .Values.model }}
{{- $download := or .download.hub .download.command }}
{{- if and .download.hub .download.command }}
{{- fail "model.download.hub and model.download.command are both set: choose one" }}
{{- else if and $download (not .name) }}
{{- fail "model.download is set, but not model.name, the folder that it fills" }}
{{- else if and .name (not (or .volume .claim.size $download)) }}
{{- fail (printf "model.name is %s, but nothing provides it: set model.volume, model.claim.size, model.download.hub or model.download.command" .name) }}
{{- end }}
{{- end }}
{{- with .Values.apiKeys }}
{{- if and .keys .existingSecret }}
{{- fail "apiKeys.keys and apiKeys.existingSecret are both set: choose one" }}
{{- end }}
{{- range $i, $key := .keys }}
{{- if not (regexMatch "^[!-~]+$" $key) }}
{{- fail (printf "apiKeys.keys[%d] must be printable ASCII without spaces, and not empty" $i) }}
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.autoscaling }}
{{- if gt .minReplicas .maxReplicas }}
{{- fail (printf "autoscaling.minReplicas is %v, must be at most maxReplicas, which is %v" .minReplicas .maxReplicas) }}
{{- else if and (eq .type "keda") (not .keda.prometheus) }}
{{- fail "autoscaling.type is keda: set autoscaling.keda.prometheus, the address of Prometheus" }}
{{- end }}
{{- end }}
{{- with .Values.rollingUpdate }}
{{- if and (has (toString .maxSurge) (list "0" "0%")) (has (toString .maxUnavailable) (list "0" "0%")) }}
{{- fail "rollingUpdate.maxSurge and rollingUpdate.maxUnavailable are both 0: no pod could ever be replaced" }}
{{- end }}
{{- end }}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) }}
{{- fail "httpRoute is enabled: set httpRoute.parentRefs, the gateways" }}
{{- end }}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) }}
{{- fail "ingress is enabled: set ingress.hosts" }}
{{- end }}
{{- end }}
