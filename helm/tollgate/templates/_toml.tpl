{{/*
A map as TOML: first its values, then its tables, each sorted by key. Nulls are left out. Takes a dict: `value` is the
map, `path` its name in TOML, empty for the document.
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

{{/* A key, quoted if TOML requires it: names of models and organizations may have dots and other characters. */}}
{{- define "tollgate.toml.key" -}}
{{- if regexMatch "^[A-Za-z0-9_-]+$" . -}}{{ . }}{{- else -}}{{ include "tollgate.toml.text" . }}{{- end -}}
{{- end -}}

{{/*
JSON's escapes are valid in TOML. TOML requires DEL to be escaped, too, and YAML would lose its other line breaks in the
ConfigMap.
*/}}
{{- define "tollgate.toml.text" -}}
{{- mustToRawJson . | replace "\x7f" "\\u007F" | replace "\u0085" "\\u0085" -}}
{{- end -}}

{{/*
A value that is no table. Numbers from a values file are floating-point numbers: whole ones are written without
fraction and exponent.
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
