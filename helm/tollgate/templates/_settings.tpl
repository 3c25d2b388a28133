{{/*
The settings file. Values that are not set are left out, so the program's defaults apply. Paths are the pod's mount
paths.
*/}}
{{- define "tollgate.settings" -}}
{{- $settings := mustDeepCopy .Values.settings -}}
{{- $redis := default dict $settings.redis -}}
{{- $bounds := default dict $settings.bounds -}}
{{- /* Otherwise callers keep their connections to the old pods for a day. */ -}}
{{- if and .Values.autoscaling.enabled (kindIs "invalid" $bounds.connection_age) -}}
{{- $_ := set $bounds "connection_age" "30m" -}}
{{- end -}}
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
{{- with .Values.redis.login.user -}}{{- $_ := set $redis "username" . -}}{{- end -}}
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
{{- /* YAML reads an unquoted off as false. */ -}}
{{- if kindIs "bool" $settings.reflection -}}{{- $_ := set $settings "reflection" "off" -}}{{- end -}}
{{- $reconcile := default dict $settings.reconcile -}}
{{- if kindIs "bool" $reconcile.raise -}}{{- $_ := set $reconcile "raise" "off" -}}{{- end -}}
{{- $metrics := default dict $settings.metrics -}}
{{- if kindIs "bool" $metrics.organizations -}}{{- $_ := set $metrics "organizations" "off" -}}{{- end -}}
{{- /* Empty sections are left out. */ -}}
{{- range $name, $section := dict "redis" $redis "bounds" $bounds "envoy" (default dict $settings.envoy) "reconcile" $reconcile "metrics" $metrics -}}
{{- $said := dict -}}
{{- range $key, $value := $section -}}
{{- if not (kindIs "invalid" $value) -}}{{- $_ := set $said $key $value -}}{{- end -}}
{{- end -}}
{{- $_ := unset $settings $name -}}
{{- if $said -}}{{- $_ := set $settings $name $said -}}{{- end -}}
{{- end -}}
{{- include "tollgate.toml" (dict "value" $settings "path" "") -}}
{{- end -}}

{{/* The TLS settings of a listener, as JSON. */}}
{{- define "tollgate.listenerTls" -}}
{{- $files := dict "cert_file" (printf "%s/tls.crt" .dir) "key_file" (printf "%s/tls.key" .dir) -}}
{{- if ne .tls.clientCertificates "none" -}}
{{- $_ := set $files "client_ca_file" (printf "%s/ca.crt" .dir) -}}
{{- $_ := set $files "client_certificates" .tls.clientCertificates -}}
{{- end -}}
{{- toJson $files -}}
{{- end -}}
