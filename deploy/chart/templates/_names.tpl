{{/* Names as in kube-fledged's chart, so that its release can be upgraded to this chart. */}}
{{- define "fledged.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "fledged.fullname" -}}
{{- $name := include "fledged.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 48 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 48 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 48 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Name of one component: (list . "controller"). */}}
{{- define "fledged.partname" -}}
{{- printf "%s-%s" (include "fledged.fullname" (first .)) (last .) -}}
{{- end -}}

{{/* Each component has its own ServiceAccount, even if the chart does not create it: the admission policy matches the agent's by name. */}}
{{- define "fledged.serviceAccountName" -}}
{{- $root := first . -}}
{{- printf "%s-%s" (default (include "fledged.fullname" $root) $root.Values.serviceAccount.name) (last .) -}}
{{- end -}}

{{- define "fledged.clusterRoleName" -}}
{{- $root := first . -}}
{{- printf "%s-%s" (default (include "fledged.fullname" $root) $root.Values.clusterRole.name) (last .) -}}
{{- end -}}

{{- define "fledged.clusterRoleBindingName" -}}
{{- $root := first . -}}
{{- printf "%s-%s" (default (include "fledged.fullname" $root) $root.Values.clusterRoleBinding.name) (last .) -}}
{{- end -}}

{{- define "fledged.webhookConfigurationName" -}}
{{- default (include "fledged.partname" (list . "webhook-server")) .Values.validatingWebhook.name -}}
{{- end -}}

{{- define "fledged.webhookServiceName" -}}
{{- default (include "fledged.partname" (list . "webhook-server")) .Values.webhookService.name -}}
{{- end -}}

{{- define "fledged.webhookSecretName" -}}
{{- if .Values.webhookServer.ownCertificate -}}
{{- .Values.secret.name -}}
{{- else -}}
{{- include "fledged.partname" (list . "webhook-server") -}}
{{- end -}}
{{- end -}}

{{- define "fledged.chart" -}}
{{- printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* Labels of every object of a component: (list . "controller"). */}}
{{- define "fledged.labels" -}}
{{- $root := first . -}}
{{- if $root.Values.plainLabels -}}
app: kubefledged
component: kubefledged-{{ last . }}
{{- else -}}
helm.sh/chart: {{ include "fledged.chart" $root }}
app.kubernetes.io/name: {{ include "fledged.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/part-of: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ last . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
{{- end }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Selector of a component's pods; kube-fledged's, because an upgrade cannot change a selector. */}}
{{- define "fledged.selector" -}}
{{- $root := first . -}}
{{- if $root.Values.plainLabels -}}
kubefledged: kubefledged-{{ last . }}
{{- else -}}
app.kubernetes.io/name: {{ include "fledged.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/part-of: {{ $root.Release.Name }}-{{ last . }}
{{- end -}}
{{- end -}}

{{/* Selector of all components' pods. */}}
{{- define "fledged.selectorOfAll" -}}
{{- if .Values.plainLabels -}}
app: kubefledged
{{- else -}}
app.kubernetes.io/name: {{ include "fledged.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}
{{- end -}}

{{- define "fledged.podLabels" -}}
{{- $root := first . -}}
{{ include "fledged.selector" . }}
{{- if $root.Values.plainLabels }}
app: kubefledged
{{- else }}
app.kubernetes.io/component: {{ last . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
{{- end }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* metadata of an object: (list . "controller" NAME NAMESPACE); an empty NAMESPACE is left out. */}}
{{- define "fledged.metadata" -}}
{{- $root := first . -}}
name: {{ index . 2 }}
{{- with index . 3 }}
namespace: {{ . }}
{{- end }}
labels:
  {{- include "fledged.labels" (list $root (index . 1)) | nindent 2 }}
{{- with $root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
