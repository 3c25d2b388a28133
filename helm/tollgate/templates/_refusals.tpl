{{/*
Values that would count wrongly, show a secret or cut calls, without any pod noticing. All faults are reported at once.
values.schema.json checks each value, and the program checks settings and policy when it starts.
*/}}
{{- define "tollgate.refuse" -}}
{{- $faults := list -}}
{{- $type := .Values.store.type -}}
{{- $redis := .Values.redis -}}
{{- if and (eq $type "redis") (eq (empty $redis.existingSecret) (empty $redis.url)) -}}
{{- $faults = append $faults "store.type is redis: set one of redis.existingSecret (a Secret with the URL) and redis.url; or store.type: file, for one replica on a volume claim" -}}
{{- end -}}
{{- if and (ne $type "redis") (or $redis.existingSecret $redis.url) -}}
{{- $faults = append $faults (printf "redis.existingSecret or redis.url is set, and store.type is %s: set store.type: redis" $type) -}}
{{- end -}}
{{- if contains "@" $redis.url -}}
{{- $faults = append $faults "redis.url has a user or a password, and values are no place for secrets: put the URL in a Secret, and name it in redis.existingSecret" -}}
{{- end -}}
{{- if and (ne $type "redis") (include "tollgate.manyReplicas" .) -}}
{{- $why := ternary "one process at a time can open the file" "each replica would grant the whole allowance" (eq $type "file") -}}
{{- $faults = append $faults (printf "the store %s allows one replica: %s. Set store.type: redis, or replicas: 1 without autoscaling.enabled" $type $why) -}}
{{- end -}}
{{- if and .Values.policy .Values.existingPolicyConfigMap -}}
{{- $faults = append $faults "policy and existingPolicyConfigMap are both set: set one of them" -}}
{{- end -}}
{{- $policy := default dict .Values.policy -}}
{{- if and $policy.pools (not $policy.tiers) (not (default dict $policy.program).extends) -}}
{{- $faults = append $faults "policy.pools without policy.tiers: set policy.tiers (and policy.models), or policy.program.extends, which adds the pools to a built-in programme" -}}
{{- end -}}
{{- if and .Values.tls.existingSecret .Values.httpTls.existingSecret (eq .Values.httpTls.clientCertificates "required") -}}
{{- $faults = append $faults "with tls, the probes use HTTP, and the kubelet has no certificate: set httpTls.clientCertificates: optional, and restrict access with networkPolicy.httpFrom" -}}
{{- end -}}
{{- $settings := .Values.settings -}}
{{- $callTimeout := default "1s" $settings.call_timeout -}}
{{- $drain := include "tollgate.milliseconds" $settings.drain_delay | int64 -}}
{{- $grace := include "tollgate.milliseconds" $settings.grace_period | int64 -}}
{{- $call := include "tollgate.milliseconds" $callTimeout | int64 -}}
{{- if lt $grace (add $drain $call 1000) -}}
{{- $faults = append $faults (printf "settings.grace_period is %s, less than drain_delay (%s), call_timeout (%s) and 1s to close connections: open calls would be cut" $settings.grace_period $settings.drain_delay $callTimeout) -}}
{{- end -}}
{{- if le (include "tollgate.terminationSeconds" . | int) (include "tollgate.graceSeconds" . | int) -}}
{{- $faults = append $faults (printf "terminationGracePeriodSeconds is %s, not more than settings.grace_period (%s): the kubelet would kill open calls" (include "tollgate.terminationSeconds" .) $settings.grace_period) -}}
{{- end -}}
{{- $ours := list "TOLLGATE_LISTEN" "TOLLGATE_HTTP_LISTEN" "TOLLGATE_STORE" "TOLLGATE_POLICY" "TOLLGATE_CONFIG" "TOLLGATE_CALLERS" "TOLLGATE_ON_STORE_FAILURE" "TOLLGATE_REDIS_PASSWORD" "TOLLGATE_REDIS_SENTINEL_PASSWORD" "TOLLGATE_NOTIFY_URL" -}}
{{- range .Values.extraEnv -}}
{{- if has .name $ours -}}
{{- $faults = append $faults (printf "extraEnv sets %s, which the chart sets from its own values" .name) -}}
{{- end -}}
{{- end -}}
{{- if $faults -}}
{{- fail (printf "\n\nThese values are refused:\n  * %s\n" (join "\n  * " $faults)) -}}
{{- end -}}
{{- end -}}
