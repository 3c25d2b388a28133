{{/*
A map as TOML: its plain values first, then its tables, in the order of their keys. What is null is left out.
Takes a dict: `value` is the map, `path` its name as TOML writes it, empty for the document.
*/}}
{{- define "tollgate.toml" -}}
{{- $path := .path -}}
{{- range $key, $value := .value -}}
{{- if not (or (kindIs "map" $value) (kindIs "invalid" $value)) }}
{{ include "tollgate.toml.key" $key }} = {{ include "tollgate.toml.value" (dict "value" $value "at" (printf "%s.%s" $path $key)) }}
{{- end -}}
{{- end -}}
{{- range $key, $value := .value -}}
{{- if kindIs "map" $value -}}
{{- $name := include "tollgate.toml.key" $key -}}
{{- if $path -}}{{- $name = printf "%s.%s" $path $name -}}{{- end }}

[{{ $name }}]
{{- include "tollgate.toml" (dict "value" $value "path" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* A key, quoted where TOML asks for it: model names and organizations hold dots, and more. */}}
{{- define "tollgate.toml.key" -}}
{{- if regexMatch "^[A-Za-z0-9_-]+$" . -}}{{ . }}{{- else -}}{{ include "tollgate.toml.text" . }}{{- end -}}
{{- end -}}

{{/*
JSON's escapes are TOML's too. Besides, TOML wants DEL escaped, and what YAML takes for the end of a line would be lost
in the ConfigMap.
*/}}
{{- define "tollgate.toml.text" -}}
{{- mustToRawJson . | replace "\x7f" "\\u007F" | replace "\u0085" "\\u0085" -}}
{{- end -}}

{{/*
A value that is no table. Numbers from a values file are floating-point ones: whole ones are written without a
fraction and without an exponent.
*/}}
{{- define "tollgate.toml.value" -}}
{{- $value := .value -}}
{{- if kindIs "string" $value -}}
{{- include "tollgate.toml.text" $value -}}
{{- else if kindIs "bool" $value -}}
{{- $value -}}
{{- else if kindIs "float64" $value -}}
{{- if eq $value (floor $value) -}}{{- printf "%.0f" $value -}}{{- else -}}{{- printf "%v" $value -}}{{- end -}}
{{- else if kindIs "slice" $value -}}
{{- $at := .at -}}
{{- $items := list -}}
{{- range $value -}}
{{- $items = append $items (include "tollgate.toml.value" (dict "value" . "at" $at)) -}}
{{- end -}}
[{{ join ", " $items }}]
{{- else if or (kindIs "int" $value) (kindIs "int64" $value) -}}
{{- printf "%d" $value -}}
{{- else -}}
{{- fail (printf "\n\n%s: a list holds texts, numbers and true or false, and no %s" (trimPrefix "." .at) (kindOf $value)) -}}
{{- end -}}
{{- end -}}
