{{/* The name of everything: the release's, with the chart's behind it unless it is in it. */}}
{{- define "loci.name" -}}
{{- if contains "loci" .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-loci" (.Release.Name | trunc 45 | trimSuffix "-") -}}
{{- end -}}
{{- end -}}

{{/* What tells the nodes of this release from everything else. */}}
{{- define "loci.selector" -}}
app.kubernetes.io/name: loci
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "loci.labels" -}}
{{ include "loci.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* The addresses of all nodes, as they advertise themselves. */}}
{{- define "loci.join" -}}
{{- $name := include "loci.name" . -}}
{{- range $node := until (int .Values.replicas) -}}
{{- if $node }},{{ end -}}{{ printf "%s-%d.%s:7700" $name $node $name -}}
{{- end -}}
{{- end -}}
