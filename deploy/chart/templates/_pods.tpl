{{/* The image of a component: (list . REPOSITORY), with kube-fledged's value for it as REPOSITORY. kube-fledged's published
     images hold another program; a values file that names them gets the default. */}}
{{- define "fledged.image" -}}
{{- $root := first . -}}
{{- $image := $root.Values.image -}}
{{- $repository := $image.repository -}}
{{- if and (last .) (not (include "fledged.isForeignImage" (last .))) -}}
{{- $repository = last . -}}
{{- end -}}
{{- if not $repository -}}
{{- fail "image.repository is empty: set it to the repository of the fledged-operator image" -}}
{{- end -}}
{{- printf "%s:%s" $repository (default $root.Chart.AppVersion $image.tag) -}}
{{- with $image.digest -}}@{{ . }}{{- end -}}
{{- end -}}

{{- define "fledged.isForeignImage" -}}
{{- if regexMatch "(^|/)senthilrch/kubefledged-[a-z-]+$" . -}}true{{- end -}}
{{- end -}}

{{/* securityContext of pod and container for Pod Security's level `restricted`. */}}
{{- define "fledged.podSecurityContext" -}}
{{- $own := dict "runAsNonRoot" true "runAsUser" 65532 "runAsGroup" 65532 "fsGroup" 65532 "seccompProfile" (dict "type" "RuntimeDefault") -}}
{{- include "fledged.overlaid" (list $own .) -}}
{{- end -}}

{{/* (list DEFAULTS VALUES): the defaults, overlaid with the values. A null removes a field. */}}
{{- define "fledged.overlaid" -}}
{{- $values := default dict (last .) -}}
{{- $all := mergeOverwrite (first .) (deepCopy $values) -}}
{{- range $key, $value := $values -}}
{{- if kindIs "invalid" $value -}}
{{- $all = omit $all $key -}}
{{- end -}}
{{- end -}}
{{- toYaml $all -}}
{{- end -}}

{{- define "fledged.securityContext" -}}
{{- $own := dict "allowPrivilegeEscalation" false "readOnlyRootFilesystem" true "capabilities" (dict "drop" (list "ALL")) -}}
{{- include "fledged.overlaid" (list $own .) -}}
{{- end -}}

{{/* Scheduling of a Deployment's pods: (list . .Values.controller "controller"). */}}
{{- define "fledged.placement" -}}
{{- $root := first . -}}
{{- $part := index . 1 -}}
{{- with default $root.Values.nodeSelector $part.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with default $root.Values.tolerations $part.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with default $root.Values.affinity $part.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $part.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "fledged.hostNetwork" -}}
{{- if .hostNetwork }}
hostNetwork: true
dnsPolicy: ClusterFirstWithHostNet
{{- end }}
{{- end -}}

{{- define "fledged.priorityClassName" -}}
{{- $root := first . -}}
{{- $class := (last .).priorityClassName -}}
{{- if and (not $class) $root.Values.priorityClass.create -}}
{{- $class = include "fledged.fullname" $root -}}
{{- end -}}
{{- with $class }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{/* Host part of the addresses of metrics and probes of a component: (list . .Values.agent); "" for all addresses. */}}
{{- define "fledged.bindHost" -}}
{{- $address := (first .).Values.bindAddress -}}
{{- if eq $address "podIP" -}}
[$(POD_IP)]
{{- else if and (eq $address "loopback") (last .).hostNetwork -}}
127.0.0.1
{{- end -}}
{{- end -}}

{{/* Flags of these addresses: (list . .Values.agent METRICS PROBES). */}}
{{- define "fledged.bindFlags" -}}
{{- with include "fledged.bindHost" (list (first .) (index . 1)) }}
- "--metrics-bind-address={{ . }}:{{ index $ 2 }}"
- "--health-probe-bind-address={{ . }}:{{ index $ 3 }}"
{{- end }}
{{- end -}}

{{- define "fledged.podIP" -}}
{{- if eq .Values.bindAddress "podIP" }}
- name: POD_IP
  valueFrom:
    fieldRef:
      fieldPath: status.podIP
{{- end }}
{{- end -}}

{{/* (list . .Values.agent) */}}
{{- define "fledged.probes" -}}
{{- $host := ternary ", host: 127.0.0.1" "" (eq (include "fledged.bindHost" .) "127.0.0.1") -}}
livenessProbe:
  httpGet: {path: /livez, port: probes{{ $host }}}
  initialDelaySeconds: 10
  periodSeconds: 20
  timeoutSeconds: 5
readinessProbe:
  httpGet: {path: /readyz, port: probes{{ $host }}}
  periodSeconds: 10
  timeoutSeconds: 5
{{- end -}}

{{- define "fledged.smallResources" -}}
requests:
  cpu: 10m
  memory: 48Mi
limits:
  memory: 512Mi
{{- end -}}

{{/* Path of the socket on the node: the configured one, or the runtime's; "" if the agent is to detect it. */}}
{{- define "fledged.socket" -}}
{{- $known := dict "containerd" "/run/containerd/containerd.sock" "crio" "/var/run/crio/crio.sock" "k3s" "/run/k3s/containerd/containerd.sock" "cri-dockerd" "/run/cri-dockerd.sock" "docker" "/var/run/docker.sock" "auto" "" -}}
{{- $given := default .Values.args.controllerCRISocketPath .Values.agent.runtimeSocket -}}
{{- if $given -}}
{{- trimPrefix "unix://" $given -}}
{{- else -}}
{{- get $known .Values.agent.runtime -}}
{{- end -}}
{{- end -}}

{{/* Namespaces whose pull secrets agents may read, one per line. */}}
{{- define "fledged.secretNamespaces" -}}
{{- join "\n" (uniq (default list .Values.agent.secretNamespaces)) -}}
{{- end -}}

{{/* Namespaces with a ServiceAccount for Jobs, one per line. */}}
{{- define "fledged.jobNamespaces" -}}
{{- if and (eq .Values.nodeDriver "job") (not .Values.args.controllerServiceAccountName) -}}
{{- $all := .Values.jobs.namespaces -}}
{{- with .Values.watchNamespace -}}
{{- $all = append $all . -}}
{{- end -}}
{{- if $all -}}
{{- /* Jobs that remove images. */ -}}
{{- $all = append $all .Release.Namespace -}}
{{- end -}}
{{- join "\n" (uniq $all) -}}
{{- end -}}
{{- end -}}

{{/* The ServiceAccount that Jobs use. */}}
{{- define "fledged.jobServiceAccountName" -}}
{{- if .Values.args.controllerServiceAccountName -}}
{{- .Values.args.controllerServiceAccountName -}}
{{- else if include "fledged.jobNamespaces" . -}}
{{- include "fledged.partname" (list . "jobs") -}}
{{- else -}}
default
{{- end -}}
{{- end -}}

{{/* The flag with the images that are never removed: the patterns, and the operator's own image. */}}
{{- define "fledged.protectImages" -}}
--protect-images={{ append (.Values.protectImages | default list) .Values.image.repository | uniq | join "," }}
{{- end -}}
