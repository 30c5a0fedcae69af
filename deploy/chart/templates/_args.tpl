{{/* The arguments of the programs. */}}

{{/* Of (path of the values, values, the chart's own arguments): those and extraArgs. A program accepts a flag only once. */}}
{{- define "fledged.args" -}}
{{- $path := index . 0 -}}
{{- $own := index . 2 -}}
{{- $flag := "^--?([a-z][-a-z0-9]*).*$" -}}
{{- $flags := list -}}
{{- range fromYamlArray $own -}}
{{- $flags = append $flags (regexReplaceAll $flag . "${1}") -}}
{{- end -}}
{{- $own | trim -}}
{{- range default list (index . 1).extraArgs -}}
{{- if and (regexMatch $flag .) (has (regexReplaceAll $flag . "${1}") $flags) -}}
{{- fail (printf "%s.extraArgs: %q: the chart sets this flag itself; use its value, see docs/reference.md" $path .) -}}
{{- end }}
- {{ . | quote }}
{{- end -}}
{{- end -}}

{{- define "fledged.controllerArgs" -}}
{{- $args := .Values.args -}}
- controller
- --node-driver={{ .Values.nodeDriver }}
- --max-concurrent-nodes={{ .Values.controller.maxConcurrentNodes }}
- {{ include "fledged.protectImages" . | quote }}
- --log-format={{ .Values.logFormat }}
{{- with include "fledged.bindFlags" (list . .Values.controller 8080 8081) | trim }}
{{- . | nindent 0 }}
{{- end }}
{{- if .Values.metrics.perImageCache }}
- --metrics-per-image-cache
{{- end }}
{{- with .Values.watchNamespace }}
- --watch-namespace={{ . }}
{{- end }}
{{- with $args.controllerLogLevel }}
- --stderrthreshold={{ . }}
{{- end }}
{{- with $args.controllerImagePullDeadlineDuration }}
- --image-pull-deadline-duration={{ . }}
{{- end }}
{{- with $args.controllerImageCacheRefreshFrequency }}
- --image-cache-refresh-frequency={{ . }}
{{- end }}
{{- with $args.controllerImagePullPolicy }}
- --image-pull-policy={{ . }}
{{- end }}
{{- if $args.controllerImageDeleteJobHostNetwork }}
- --image-delete-job-host-network=true
{{- end }}
{{- with $args.controllerJobPriorityClassName }}
- --job-priority-class-name={{ . }}
{{- end }}
{{- with $args.controllerJobRetentionPolicy }}
- --job-retention-policy={{ . }}
{{- end }}
{{- with include "fledged.socket" . }}
- --cri-socket-path={{ . }}
{{- end }}
{{- if or $args.controllerServiceAccountName (include "fledged.jobNamespaces" .) }}
- --service-account-name={{ include "fledged.jobServiceAccountName" . }}
{{- end }}
{{- if eq .Values.nodeDriver "job" }}
- --job-pull-method={{ .Values.jobs.pullMethod }}
{{- with .Values.jobs.removalSELinuxType }}
- --job-removal-selinux-type={{ . }}
{{- end }}
{{- with .Values.jobs.resources }}
- {{ printf "--job-resources=%s" (toJson .) | quote }}
{{- end }}
- --job-run-as-user={{ if kindIs "invalid" .Values.jobs.runAsUser }}none{{ else }}{{ int64 .Values.jobs.runAsUser }}{{ end }}
- {{ printf "--job-pod-labels=%s" (toJson (default dict .Values.jobs.podLabels)) | quote }}
- {{ printf "--job-pod-annotations=%s" (toJson (default dict .Values.jobs.podAnnotations)) | quote }}
{{- with .Values.imagePullSecrets }}
{{- $names := list }}
{{- range . }}{{ $names = append $names .name }}{{ end }}
- --job-image-pull-secrets={{ join "," $names }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Not empty if agents fetch layers. */}}
{{- define "fledged.fetches" -}}
{{- if eq (default "" (default dict .Values.agent.pull).via) "auto" -}}
true
{{- end -}}
{{- end -}}

{{- define "fledged.runtimeConfigDirs" -}}
{{- default (list "/etc/containerd" "/etc/docker/certs.d") .Values.agent.pull.configDirs | toJson -}}
{{- end -}}

{{- define "fledged.agentArgs" -}}
{{- $socket := include "fledged.socket" . -}}
- agent
{{- if $socket }}
- --runtime={{ if hasSuffix "docker.sock" $socket }}docker{{ else }}unix{{ end }}://{{ $socket }}
{{- end }}
- --max-parallel-pulls={{ .Values.agent.maxParallelPulls }}
- {{ include "fledged.protectImages" . | quote }}
{{- if include "fledged.fetches" . }}
- --pull-via=auto
- --max-connections={{ int64 (default 8 .Values.agent.pull.maxConnections) }}
- --runtime-config-dirs={{ join "," (fromJsonArray (include "fledged.runtimeConfigDirs" .)) }}
{{- with .Values.agent.pull.maxRate }}
- --max-pull-rate={{ ternary . (int64 .) (kindIs "string" .) }}
{{- end }}
{{- with .Values.agent.pull.maxIOPressure }}
- --max-io-pressure={{ . }}
{{- end }}
{{- with .Values.agent.pull.maxMemoryPressure }}
- --max-memory-pressure={{ . }}
{{- end }}
{{- end }}
{{- with .Values.agent.inventoryInterval }}
- --inventory-interval={{ . }}
{{- end }}
{{- with .Values.agent.imageFilesystem }}
{{- with .highThreshold }}
- --image-fs-high-threshold={{ . }}
{{- end }}
{{- end }}
{{- with .Values.agent.logLevel }}
- --stderrthreshold={{ . }}
{{- end }}
{{- with .Values.agent.credentialProviders }}
{{- if .config }}
- --image-credential-provider-config=/credential-providers/{{ base .config }}
- --image-credential-provider-bin-dir=/credential-providers/bin
{{- end }}
{{- end }}
- --log-format={{ .Values.logFormat }}
{{- with include "fledged.bindFlags" (list . .Values.agent 8082 8083) | trim }}
{{- . | nindent 0 }}
{{- end }}
{{- end -}}

{{- define "fledged.webhookArgs" -}}
{{- $part := .Values.webhookServer -}}
{{- $args := .Values.args -}}
{{- $secret := include "fledged.webhookSecretName" . -}}
{{- $issued := or $part.certManager.enable $part.ownCertificate -}}
{{- $port := int $args.webhookServerPort -}}
- webhook
- --port={{ $port }}
{{- if $issued }}
- --cert-file={{ $args.webhookServerCertFile }}
- --key-file={{ $args.webhookServerKeyFile }}
{{- else }}
- --service-name={{ include "fledged.webhookServiceName" . }}
- --secret-name={{ $secret }}
- --webhook-configuration={{ include "fledged.webhookConfigurationName" . }}
{{- end }}
{{- with include "fledged.bindFlags" (list . $part 8084 8085) | trim }}
{{- . | nindent 0 }}
{{- else }}
- --metrics-bind-address=:8084
- --health-probe-bind-address=:8085
{{- end }}
- --log-format={{ .Values.logFormat }}
{{- with $args.controllerImageCacheRefreshFrequency }}
- --image-cache-refresh-frequency={{ . }}
{{- end }}
{{- with $args.webhookServerLogLevel }}
- --stderrthreshold={{ . }}
{{- end }}
{{- end -}}
