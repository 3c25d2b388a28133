{{/*
What can't be meant, or would count wrongly: refused before anything is made, every fault at once. The schema
holds what a value may be by itself; this holds what values may be together.
*/}}
{{- define "tollgate.refuse" -}}
{{- $faults := concat
  (include "tollgate.refuse.names" . | fromJsonArray)
  (include "tollgate.refuse.store" . | fromJsonArray)
  (include "tollgate.refuse.policy" . | fromJsonArray)
  (include "tollgate.refuse.settings" . | fromJsonArray)
  (include "tollgate.refuse.listeners" . | fromJsonArray)
  (include "tollgate.refuse.services" . | fromJsonArray)
  (include "tollgate.refuse.stopping" . | fromJsonArray)
  (include "tollgate.refuse.scaling" . | fromJsonArray)
  (include "tollgate.refuse.metrics" . | fromJsonArray)
  (include "tollgate.refuse.environment" . | fromJsonArray)
-}}
{{- if $faults -}}
{{- fail (printf "\n\nThese values are refused:\n  * %s\n" (join "\n  * " $faults)) -}}
{{- end -}}
{{- end -}}

{{/* Services have these names, and a name in DNS begins with a letter and holds no dots. */}}
{{- define "tollgate.refuse.names" -}}
{{- $name := include "tollgate.fullname" . -}}
{{- $faults := list -}}
{{- if not (regexMatch "^[a-z]([a-z0-9-]*[a-z0-9])?$" $name) -}}
{{- $faults = append $faults (printf "%q can't be the name of a Service: a letter first, then letters, digits and -, all small; set fullnameOverride" $name) -}}
{{- end -}}
{{- toJson $faults -}}
{{- end -}}

{{- define "tollgate.refuse.store" -}}
{{- $faults := list -}}
{{- $type := .Values.store.type -}}
{{- $redis := .Values.redis -}}
{{- if eq $type "redis" -}}
{{- if not (or $redis.existingSecret $redis.url) -}}
{{- $faults = append $faults "store.type is redis, and no Redis is named: set redis.existingSecret (a Secret with its URL) or redis.url; or store.type: file, for one replica on a volume claim" -}}
{{- end -}}
{{- if and $redis.existingSecret $redis.url -}}
{{- $faults = append $faults "redis.existingSecret and redis.url both name a Redis: set one of them" -}}
{{- end -}}
{{- if contains "@" $redis.url -}}
{{- $faults = append $faults "redis.url holds a user or a password, and values are no place for secrets: put the URL in a Secret, and name that in redis.existingSecret" -}}
{{- end -}}
{{- if and $redis.url $redis.tls.existingSecret (not (hasPrefix "rediss" $redis.url)) -}}
{{- $faults = append $faults "redis.tls is for a Redis that is reached over TLS: rediss://…" -}}
{{- end -}}
{{- if and (or $redis.tls.certKey $redis.tls.keyKey) (not $redis.tls.existingSecret) -}}
{{- $faults = append $faults "redis.tls.certKey and redis.tls.keyKey need redis.tls.existingSecret, the Secret that holds them" -}}
{{- end -}}
{{- if and $redis.url (or $redis.sentinel.user $redis.sentinel.existingSecret) (not (contains "+sentinel:" $redis.url)) -}}
{{- $faults = append $faults "redis.sentinel is for a Redis that sentinels watch: redis+sentinel://…" -}}
{{- end -}}
{{- if ne (empty $redis.tls.certKey) (empty $redis.tls.keyKey) -}}
{{- $faults = append $faults "redis.tls.certKey and redis.tls.keyKey go together: set both or none" -}}
{{- end -}}
{{- if and $redis.login.user (not $redis.login.existingSecret) -}}
{{- $faults = append $faults "redis.login.user needs redis.login.existingSecret, with its password" -}}
{{- end -}}
{{- if and $redis.sentinel.user (not $redis.sentinel.existingSecret) -}}
{{- $faults = append $faults "redis.sentinel.user needs redis.sentinel.existingSecret, with its password" -}}
{{- end -}}
{{- else -}}
{{- $given := dict "redis.existingSecret" $redis.existingSecret "redis.url" $redis.url "redis.tls.existingSecret" $redis.tls.existingSecret "redis.tls.certKey" $redis.tls.certKey "redis.tls.keyKey" $redis.tls.keyKey "redis.login.user" $redis.login.user "redis.login.existingSecret" $redis.login.existingSecret "redis.sentinel.user" $redis.sentinel.user "redis.sentinel.existingSecret" $redis.sentinel.existingSecret -}}
{{- range $key, $value := default dict .Values.settings.redis -}}
{{- if not (kindIs "invalid" $value) -}}{{- $_ := set $given (printf "settings.redis.%s" $key) (toString $value) -}}{{- end -}}
{{- end -}}
{{- range $name, $value := $given -}}
{{- if $value -}}
{{- $faults = append $faults (printf "%s is set, and store.type is %s: set store.type: redis" $name $type) -}}
{{- end -}}
{{- end -}}
{{- if gt (int (include "tollgate.replicas" .)) 1 -}}
{{- $why := ternary "one process at a time has the file" "each would grant the whole allowance" (eq $type "file") -}}
{{- $faults = append $faults (printf "replicas is %d, and the store %s takes one: %s. Replicas that share an allowance need store.type: redis" (int .Values.replicas) $type $why) -}}
{{- end -}}
{{- if .Values.autoscaling.enabled -}}
{{- $faults = append $faults (printf "autoscaling.enabled needs store.type: redis: the store %s takes one replica" $type) -}}
{{- end -}}
{{- end -}}
{{- toJson $faults -}}
{{- end -}}

{{- define "tollgate.refuse.policy" -}}
{{- $faults := list -}}
{{- if and .Values.policy .Values.existingPolicyConfigMap -}}
{{- $faults = append $faults "policy and existingPolicyConfigMap both give the policy: set one of them" -}}
{{- else if .Values.policy -}}
{{- if not .Values.policy.orgs -}}
{{- $faults = append $faults "policy.orgs is empty: with this policy nothing would be free; name your organizations" -}}
{{- end -}}
{{- $policy := include "tollgate.policy" . | fromJson -}}
{{- $pools := keys $policy.pools | sortAlpha -}}
{{- range $key := list "ends_on" "as_of" -}}
{{- $day := default "" (get $policy.program $key) -}}
{{- if hasSuffix "-02-29" $day -}}
{{- $year := substr 0 4 $day | trimPrefix "0" | trimPrefix "0" | trimPrefix "0" | int -}}
{{- if or (ne (mod $year 4) 0) (and (eq (mod $year 100) 0) (ne (mod $year 400) 0)) -}}
{{- $faults = append $faults (printf "policy.program.%s is %s, and there is no such day" $key $day) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $seen := dict -}}
{{- range $pool := $pools -}}
{{- range $model := (get $policy.pools $pool).models -}}
{{- if hasPrefix "ft:" $model -}}
{{- $faults = append $faults (printf "policy.pools.%s lists %s: fine-tuned models are never covered" $pool $model) -}}
{{- else if hasKey $seen $model -}}
{{- $faults = append $faults (printf "policy.pools.%s lists %s, which is in the pool %s already: a model has one pool" $pool $model (get $seen $model)) -}}
{{- else -}}
{{- $_ := set $seen $model $pool -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $names := concat $pools (keys $seen) (keys (default dict $policy.orgs)) -}}
{{- range $org, $terms := $policy.orgs -}}{{- $names = concat $names (default list $terms.projects) -}}{{- end -}}
{{- range $name := $names -}}
{{- if gt (len $name) 256 -}}
{{- $faults = append $faults (printf "%q in the policy has %d bytes, and a name has 256 at most" $name (len $name)) -}}
{{- end -}}
{{- end -}}
{{- range $tier, $allowances := $policy.tiers -}}
{{- if ne (toJson $pools) (toJson (keys $allowances | sortAlpha)) -}}
{{- $faults = append $faults (printf "policy.tiers.%s must name the allowance of each pool, and no other: %s" $tier (join ", " $pools)) -}}
{{- end -}}
{{- end -}}
{{- range $org, $terms := $policy.orgs -}}
{{- if not (hasKey $policy.tiers (toString $terms.tier)) -}}
{{- $faults = append $faults (printf "policy.orgs.%s has tier %v, and there is no such tier in policy.tiers" $org $terms.tier) -}}
{{- end -}}
{{- if ne (eq $terms.data_sharing "selected") (hasKey $terms "projects") -}}
{{- $faults = append $faults (printf "policy.orgs.%s: projects stands with data_sharing: selected, and only with it" $org) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson $faults -}}
{{- end -}}

{{/* The times that the program refuses at its start. */}}
{{- define "tollgate.refuse.settings" -}}
{{- $faults := list -}}
{{- $settings := .Values.settings -}}
{{- $redis := default dict $settings.redis -}}
{{- range $name, $time := dict "call_timeout" $settings.call_timeout "redis.connect_timeout" $redis.connect_timeout "redis.response_timeout" $redis.response_timeout -}}
{{- if not (kindIs "invalid" $time) -}}
{{- $milliseconds := include "tollgate.milliseconds" $time | int64 -}}
{{- if or (lt $milliseconds (int64 1)) (gt $milliseconds (int64 60000)) -}}
{{- $faults = append $faults (printf "settings.%s is %s, and must be more than 0 and at most 60s" $name $time) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $bounds := default dict $settings.bounds -}}
{{- range $name, $most := dict "handshake_time" "1m" "idle_time" "7days" "connection_age" "7days" -}}
{{- $time := get $bounds $name -}}
{{- if $time -}}
{{- $milliseconds := include "tollgate.milliseconds" $time | int64 -}}
{{- if or (lt $milliseconds (int64 1000)) (gt $milliseconds (include "tollgate.milliseconds" $most | int64)) -}}
{{- $faults = append $faults (printf "settings.bounds.%s is %s, and must be 1s to %s" $name $time $most) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- with $settings.usage_retention -}}
{{- $days := regexFind "^[0-9]+" . | trimPrefix "0" | trimPrefix "0" | trimPrefix "0" | int -}}
{{- if or (lt $days 1) (gt $days 3660) -}}
{{- $faults = append $faults (printf "settings.usage_retention is %s, and must be 1day to 3660days" .) -}}
{{- end -}}
{{- end -}}
{{- toJson $faults -}}
{{- end -}}

{{- define "tollgate.refuse.services" -}}
{{- $faults := list -}}
{{- $service := .Values.service -}}
{{- if and (eq $service.type "ClusterIP") (eq (int $service.grpcPort) (int $service.httpPort)) -}}
{{- $faults = append $faults (printf "service.grpcPort and service.httpPort are both %d: a Service has a port once" (int $service.grpcPort)) -}}
{{- end -}}
{{- if ne $service.type "LoadBalancer" -}}
{{- range $name := list "loadBalancerClass" "loadBalancerSourceRanges" -}}
{{- if get $service $name -}}
{{- $faults = append $faults (printf "service.%s needs service.type: LoadBalancer" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $service.externalTrafficPolicy (eq $service.type "ClusterIP") -}}
{{- $faults = append $faults "service.externalTrafficPolicy needs service.type: LoadBalancer or NodePort" -}}
{{- end -}}
{{- toJson $faults -}}
{{- end -}}

{{- define "tollgate.refuse.metrics" -}}
{{- $faults := list -}}
{{- with .Values.serviceMonitor -}}
{{- if eq (include "tollgate.milliseconds" .interval) "0" -}}
{{- $faults = append $faults "serviceMonitor.interval is 0" -}}
{{- end -}}
{{- if .scrapeTimeout -}}
{{- if gt (include "tollgate.milliseconds" .scrapeTimeout | int64) (include "tollgate.milliseconds" .interval | int64) -}}
{{- $faults = append $faults (printf "serviceMonitor.scrapeTimeout is %s, longer than serviceMonitor.interval (%s): Prometheus takes no such target" .scrapeTimeout .interval) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson $faults -}}
{{- end -}}

{{- define "tollgate.refuse.listeners" -}}
{{- $faults := list -}}
{{- range $name, $tls := dict "tls" .Values.tls "httpTls" .Values.httpTls -}}
{{- if and (ne $tls.clientCertificates "none") (not $tls.existingSecret) -}}
{{- $faults = append $faults (printf "%s.clientCertificates needs %s.existingSecret" $name $name) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.tls.existingSecret .Values.httpTls.existingSecret (eq .Values.httpTls.clientCertificates "required") -}}
{{- $faults = append $faults "tls and httpTls.clientCertificates: required leave no way for probes: the kubelet knows no TLS for gRPC, and has no certificate for HTTP. Make them optional, and keep strangers away with networkPolicy.httpFrom" -}}
{{- end -}}
{{- if and .Values.callers.existingSecret (not .Values.tls.existingSecret) -}}
{{- $faults = append $faults "callers.existingSecret needs tls.existingSecret: without TLS there are no certificates to know a caller by, and tokens are refused on a plaintext port" -}}
{{- end -}}
{{- if and (eq (toString .Values.settings.reflection) "callers") (not .Values.callers.existingSecret) -}}
{{- $faults = append $faults "settings.reflection: callers needs callers.existingSecret" -}}
{{- end -}}
{{- toJson $faults -}}
{{- end -}}

{{- define "tollgate.refuse.stopping" -}}
{{- $faults := list -}}
{{- $settings := .Values.settings -}}
{{- $drain := include "tollgate.milliseconds" $settings.drain_delay | int64 -}}
{{- $grace := include "tollgate.milliseconds" $settings.grace_period | int64 -}}
{{- $call := include "tollgate.milliseconds" (default "1s" $settings.call_timeout) | int64 -}}
{{- if gt $grace (int64 3600000) -}}
{{- $faults = append $faults "settings.grace_period must be at most 1h" -}}
{{- end -}}
{{- if lt $grace (add $drain $call 1000) -}}
{{- $faults = append $faults (printf "settings.grace_period is %s, and must hold the drain_delay (%s), an open call (call_timeout, %s) and a second for connections to close" $settings.grace_period $settings.drain_delay (default "1s" $settings.call_timeout)) -}}
{{- end -}}
{{- $least := include "tollgate.graceSeconds" . | int -}}
{{- if lt (include "tollgate.terminationSeconds" . | int) (add1 $least | int) -}}
{{- $faults = append $faults (printf "terminationGracePeriodSeconds is %s, and must be more than settings.grace_period (%s): else the kubelet kills calls that are still open" (include "tollgate.terminationSeconds" .) $settings.grace_period) -}}
{{- end -}}
{{- toJson $faults -}}
{{- end -}}

{{- define "tollgate.refuse.scaling" -}}
{{- $faults := list -}}
{{- $scaling := .Values.autoscaling -}}
{{- if $scaling.enabled -}}
{{- if gt (int $scaling.minReplicas) (int $scaling.maxReplicas) -}}
{{- $faults = append $faults "autoscaling.minReplicas is more than autoscaling.maxReplicas" -}}
{{- end -}}
{{- if not (kindIs "invalid" .Values.replicas) -}}
{{- $faults = append $faults "replicas and autoscaling.enabled both say how many: leave replicas out" -}}
{{- end -}}
{{- if not (dig "requests" "cpu" "" .Values.resources) -}}
{{- $faults = append $faults "autoscaling aims at a part of resources.requests.cpu, which is not set" -}}
{{- end -}}
{{- end -}}
{{- $budget := .Values.podDisruptionBudget -}}
{{- if $budget.enabled -}}
{{- if ne (kindIs "invalid" $budget.minAvailable) (not (kindIs "invalid" $budget.maxUnavailable)) -}}
{{- $faults = append $faults "podDisruptionBudget takes one of maxUnavailable and minAvailable: set the other to null" -}}
{{- end -}}
{{- if has (toString $budget.maxUnavailable) (list "0" "0%") -}}
{{- $faults = append $faults "podDisruptionBudget.maxUnavailable is 0: no node could be drained" -}}
{{- end -}}
{{- $fewest := ternary $scaling.minReplicas (include "tollgate.replicas" .) $scaling.enabled | int -}}
{{- if and (not (kindIs "invalid" $budget.minAvailable)) (include "tollgate.manyReplicas" .) -}}
{{- $must := 0 -}}
{{- if kindIs "string" $budget.minAvailable -}}
{{- /* Kubernetes rounds up. */ -}}
{{- $must = div (add (mul (trimSuffix "%" $budget.minAvailable | int) $fewest) 99) 100 | int -}}
{{- else -}}
{{- $must = int $budget.minAvailable -}}
{{- end -}}
{{- if ge $must $fewest -}}
{{- $faults = append $faults (printf "podDisruptionBudget.minAvailable is %v of %d replicas: no node could be drained" $budget.minAvailable $fewest) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson $faults -}}
{{- end -}}

{{/* What the chart sets by itself, for the probes and the Services to fit. */}}
{{- define "tollgate.refuse.environment" -}}
{{- $faults := list -}}
{{- $ours := list "TOLLGATE_LISTEN" "TOLLGATE_HTTP_LISTEN" "TOLLGATE_STORE" "TOLLGATE_POLICY" "TOLLGATE_CONFIG" "TOLLGATE_CALLERS" "TOLLGATE_ON_STORE_FAILURE" "TOLLGATE_REDIS_PASSWORD" "TOLLGATE_REDIS_SENTINEL_PASSWORD" -}}
{{- range .Values.extraEnv -}}
{{- if has .name $ours -}}
{{- $faults = append $faults (printf "extraEnv sets %s, which the chart sets from its own values" .name) -}}
{{- end -}}
{{- end -}}
{{- range $name, $profile := .Values.podAnnotations -}}
{{- if and (hasPrefix "container.apparmor.security.beta.kubernetes.io/" $name) (not (or (eq $profile "runtime/default") (hasPrefix "localhost/" $profile))) -}}
{{- $faults = append $faults (printf "podAnnotations sets %s to %q: the restricted pod security standard takes runtime/default and localhost/… only" $name $profile) -}}
{{- end -}}
{{- end -}}
{{- toJson $faults -}}
{{- end -}}
