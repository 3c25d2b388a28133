{{/*
The settings file. What the values don't set is left out: the program has defaults, and refuses what it doesn't
know. Paths are those where the pod mounts its files.
*/}}
{{- define "tollgate.settings" -}}
{{- $settings := mustDeepCopy .Values.settings -}}
{{- $redis := default dict $settings.redis -}}
{{- $_ := set $settings "listen" (printf "%s:50051" .Values.listenAddress) -}}
{{- $_ := set $settings "http_listen" (printf "%s:9464" .Values.listenAddress) -}}
{{- if eq .Values.store.type "file" -}}
{{- $_ := set $settings "store" "file:/var/lib/tollgate/tollgate.db" -}}
{{- else if eq .Values.store.type "memory" -}}
{{- $_ := set $settings "store" "memory:" -}}
{{- else if .Values.redis.url -}}
{{- $_ := set $settings "store" .Values.redis.url -}}
{{- end -}}
{{- if include "tollgate.policyConfigMap" . -}}
{{- $_ := set $settings "policy" (printf "/etc/tollgate/policy/%s" (include "tollgate.policyKey" .)) -}}
{{- end -}}
{{- with .Values.redis.tls -}}
{{- if .existingSecret -}}
{{- range $name, $key := dict "ca_file" .caKey "cert_file" .certKey "key_file" .keyKey -}}
{{- if $key -}}{{- $_ := set $redis $name (printf "/etc/tollgate/redis-tls/%s" $key) -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- with .Values.redis.sentinel.user -}}{{- $_ := set $redis "sentinel_user" . -}}{{- end -}}
{{- if .Values.callers.existingSecret -}}
{{- $_ := set $settings "callers" (printf "/etc/tollgate/callers/%s" .Values.callers.existingSecretKey) -}}
{{- end -}}
{{- if .Values.tls.existingSecret -}}
{{- $_ := set $settings "tls" (include "tollgate.listenerTls" (dict "tls" .Values.tls "dir" "/etc/tollgate/tls") | fromJson) -}}
{{- end -}}
{{- if .Values.httpTls.existingSecret -}}
{{- $_ := set $settings "http_tls" (include "tollgate.listenerTls" (dict "tls" .Values.httpTls "dir" "/etc/tollgate/http-tls") | fromJson) -}}
{{- end -}}
{{- /* A section without anything in it says nothing. */ -}}
{{- range $name, $section := dict "redis" $redis "bounds" (default dict $settings.bounds) -}}
{{- $said := dict -}}
{{- range $key, $value := $section -}}
{{- if not (kindIs "invalid" $value) -}}{{- $_ := set $said $key $value -}}{{- end -}}
{{- end -}}
{{- $_ := unset $settings $name -}}
{{- if $said -}}{{- $_ := set $settings $name $said -}}{{- end -}}
{{- end -}}
{{- /* The one setting that is a fraction, also where it is whole. */ -}}
{{- $ratio := $settings.trace_ratio -}}
{{- $_ := unset $settings "trace_ratio" -}}
{{- if not (kindIs "invalid" $ratio) }}
trace_ratio = {{ include "tollgate.fraction" $ratio }}
{{- end -}}
{{- include "tollgate.toml" (dict "value" $settings "path" "") -}}
{{- end -}}

{{- define "tollgate.fraction" -}}
{{- $text := printf "%v" . -}}
{{- if regexMatch "^[0-9]+$" $text -}}{{- printf "%s.0" $text -}}{{- else -}}{{- $text -}}{{- end -}}
{{- end -}}

{{/* The files of a listener's TLS, as JSON. */}}
{{- define "tollgate.listenerTls" -}}
{{- $files := dict "cert_file" (printf "%s/tls.crt" .dir) "key_file" (printf "%s/tls.key" .dir) -}}
{{- if .tls.mutual -}}{{- $_ := set $files "client_ca_file" (printf "%s/ca.crt" .dir) -}}{{- end -}}
{{- toJson $files -}}
{{- end -}}
