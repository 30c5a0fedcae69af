{{/* Checks that the schema cannot express, or not with a clear message. */}}
{{- define "fledged.checks" -}}
{{- include "fledged.checkSeconds" (list "args.controllerImagePullDeadlineDuration" .Values.args.controllerImagePullDeadlineDuration) -}}
{{- include "fledged.checkSeconds" (list "agent.inventoryInterval" .Values.agent.inventoryInterval) -}}
{{- include "fledged.checkLabels" . -}}
{{- include "fledged.checkCredentialProviders" (default dict .Values.agent.credentialProviders) -}}
{{- include "fledged.checkMount" (list "agent.imageFilesystem.mount" (default "" (default dict .Values.agent.imageFilesystem).mount)) -}}
{{- if include "fledged.fetches" . -}}
{{- range fromJsonArray (include "fledged.runtimeConfigDirs" .) -}}
{{- include "fledged.checkMount" (list "agent.pull.configDirs" .) -}}
{{- if eq . (default "" (default dict $.Values.agent.imageFilesystem).mount) -}}
{{- fail (printf "agent.pull.configDirs: %q: is agent.imageFilesystem.mount already" .) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.agent.pull.maxRate (eq .Values.agent.runtime "docker") -}}
{{- fail (printf "agent.pull.maxRate: %q: Docker Engine pulls by itself, without a limit" (toString .Values.agent.pull.maxRate)) -}}
{{- end -}}
{{- end -}}
{{- if .Values.webhookServer.enable -}}
{{- include "fledged.checkWebhook" . -}}
{{- end -}}
{{- end -}}

{{/* A duration must be empty or at least 1s. Only its parts are compared: one of them must be at least a second. */}}
{{- define "fledged.checkSeconds" -}}
{{- $any := "[0-9]+(\\.[0-9]+)?(ns|us|µs|ms|s|m|h)" -}}
{{- $second := "([0-9]*[1-9][0-9]*(\\.[0-9]+)?(s|m|h)|0+\\.[1-9][0-9]*(m|h)|[1-9][0-9]{3,}(\\.[0-9]+)?ms)" -}}
{{- if and (last .) (not (regexMatch (printf "^(%s)*%s(%s)*$" $any $second $any) (last .))) -}}
{{- fail (printf "%s: %q: must be at least 1s" (first .) (last .)) -}}
{{- end -}}
{{- end -}}

{{- define "fledged.checkCredentialProviders" -}}
{{- $prefix := "agent.credentialProviders" -}}
{{- if and .config (not .binDir) -}}
{{- fail (printf "%s.binDir: %q: must be the directory of the plugins if config is set" $prefix .binDir) -}}
{{- end -}}
{{- if and .binDir (not .config) -}}
{{- fail (printf "%s.config: %q: must be the kubelets' configuration if binDir is set" $prefix .config) -}}
{{- end -}}
{{- if and .serviceAccountTokens (not .config) -}}
{{- fail (printf "%s.serviceAccountTokens: true: has no use without config" $prefix) -}}
{{- end -}}
{{- if eq (base (default "" .config)) "bin" -}}
{{- fail (printf "%s.config: %q: must not be named bin, where the plugins are mounted" $prefix .config) -}}
{{- end -}}
{{- range .files -}}
{{- include "fledged.checkMount" (list (printf "%s.files" $prefix) .) -}}
{{- end -}}
{{- end -}}

{{/* A path at which agents mount a directory of their node must not hide the program or what the chart mounts. */}}
{{- define "fledged.checkMount" -}}
{{- if has (clean (last .)) (list "/etc" "/etc/ssl" "/etc/ssl/certs" "/usr" "/usr/local" "/usr/local/bin" "/credential-providers" "/run/containerd" "/run/k3s/containerd" "/run/crio" "/var/run/secrets/kubernetes.io/serviceaccount") -}}
{{- fail (printf "%s: %q: would hide files of the agent's image" (first .) (last .)) -}}
{{- end -}}
{{- end -}}

{{/* A label that the chart sets itself would differ from its selectors, which are immutable. */}}
{{- define "fledged.checkLabels" -}}
{{- $own := fromYaml (printf "%s\n%s" (include "fledged.labels" (list (dict "Chart" .Chart "Release" .Release "Values" (omit .Values "commonLabels")) "controller")) (include "fledged.selector" (list . "controller"))) -}}
{{- range $key, $value := .Values.commonLabels -}}
{{- if hasKey $own $key -}}
{{- fail (printf "commonLabels: %q: %q: the chart sets this label itself; remove it" $key $value) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "fledged.checkWebhook" -}}
{{- $part := .Values.webhookServer -}}
{{- $args := .Values.args -}}
{{- $port := int $args.webhookServerPort -}}
{{- if has $port (list 8084 8085) -}}
{{- fail (printf "args.webhookServerPort: %d: the webhook server uses 8084 for metrics and 8085 for probes; choose another port" $port) -}}
{{- end -}}
{{- if $part.ownCertificate -}}
{{- if $part.certManager.enable -}}
{{- fail "webhookServer.ownCertificate: true: webhookServer.certManager.enable is true as well; enable only one of them" -}}
{{- end -}}
{{- if not .Values.secret.name -}}
{{- fail (printf "secret.name: %q: must name the Secret with the certificate if webhookServer.ownCertificate is true" (default "" .Values.secret.name)) -}}
{{- end -}}
{{- $bundle := default "" .Values.validatingWebhookCABundle -}}
{{- if not (and (regexMatch "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$" $bundle) (contains "-----BEGIN CERTIFICATE-----" (b64dec $bundle))) -}}
{{- fail (printf "validatingWebhookCABundle: %q: must be the CA's certificate, PEM in base64, if webhookServer.ownCertificate is true" (trunc 60 $bundle)) -}}
{{- end -}}
{{- end -}}
{{- if or $part.ownCertificate $part.certManager.enable -}}
{{- $folder := dir $args.webhookServerCertFile -}}
{{- if ne $folder (dir $args.webhookServerKeyFile) -}}
{{- fail (printf "args.webhookServerKeyFile: %q: must be in the directory of args.webhookServerCertFile, %q, where the Secret is mounted" $args.webhookServerKeyFile $folder) -}}
{{- end -}}
{{- if has $folder (list "/" "/usr/local/bin") -}}
{{- fail (printf "args.webhookServerCertFile: %q: must be in a directory of its own, because the Secret is mounted there" $args.webhookServerCertFile) -}}
{{- end -}}
{{- end -}}
{{- end -}}
