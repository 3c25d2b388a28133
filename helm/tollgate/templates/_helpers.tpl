{{- define "tollgate.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{/* Short enough for suffixes; the longest is `-dashboard`. */}}
{{- define "tollgate.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "tollgate.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "tollgate.headless" -}}
{{- printf "%s-headless" (include "tollgate.fullname" .) -}}
{{- end -}}

{{- define "tollgate.selector" -}}
app.kubernetes.io/name: {{ include "tollgate.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: server
{{- end -}}

{{/*
Takes a dict: `root`; `component`, which is `server` for the pods and their Service; and `more`, further labels from the
values. A label that is given twice is rendered once.
*/}}
{{- define "tollgate.labels" -}}
{{- $root := .root -}}
{{- $ours := dict
  "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-")
  "app.kubernetes.io/name" (include "tollgate.name" $root)
  "app.kubernetes.io/instance" $root.Release.Name
  "app.kubernetes.io/version" $root.Chart.AppVersion
  "app.kubernetes.io/managed-by" $root.Release.Service
  "app.kubernetes.io/component" .component
-}}
{{- toYaml (merge $ours (default dict .more) (default dict $root.Values.commonLabels)) -}}
{{- end -}}

{{- define "tollgate.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "tollgate.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "tollgate.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* The number of replicas without autoscaling. */}}
{{- define "tollgate.replicas" -}}
{{- if kindIs "invalid" .Values.replicas -}}
{{- ternary 2 1 (eq .Values.store.type "redis") -}}
{{- else -}}
{{- int .Values.replicas -}}
{{- end -}}
{{- end -}}

{{/* Not empty if there may be more than one replica. */}}
{{- define "tollgate.manyReplicas" -}}
{{- if or .Values.autoscaling.enabled (gt (int (include "tollgate.replicas" .)) 1) -}}yes{{- end -}}
{{- end -}}

{{/* A duration such as `500ms`, `25s` or `1m30s`, in milliseconds. */}}
{{- define "tollgate.milliseconds" -}}
{{- $units := dict "ms" 1 "s" 1000 "m" 60000 "min" 60000 "h" 3600000 "d" 86400000 "day" 86400000 "days" 86400000 -}}
{{- $sum := int64 0 -}}
{{- range regexFindAll "[0-9]+[a-z]+" . -1 -}}
{{- $sum = add $sum (mul (regexFind "^[0-9]+" . | int64) (get $units (regexFind "[a-z]+$" .))) -}}
{{- end -}}
{{- $sum -}}
{{- end -}}

{{/* When the program has exited by itself, in whole seconds. The grace period includes the drain delay. */}}
{{- define "tollgate.graceSeconds" -}}
{{- div (add (include "tollgate.milliseconds" .Values.settings.grace_period | int64) 999) 1000 -}}
{{- end -}}

{{/* The kubelet's grace period: some seconds longer than the program's. */}}
{{- define "tollgate.terminationSeconds" -}}
{{- if kindIs "invalid" .Values.terminationGracePeriodSeconds -}}
{{- add (include "tollgate.graceSeconds" .) 5 -}}
{{- else -}}
{{- int .Values.terminationGracePeriodSeconds -}}
{{- end -}}
{{- end -}}

{{/* The ConfigMap of the policy, and the key in it. The name is empty with the built-in policy. */}}
{{- define "tollgate.policyConfigMap" -}}
{{- if .Values.existingPolicyConfigMap -}}
{{- .Values.existingPolicyConfigMap -}}
{{- else if .Values.policy -}}
{{- printf "%s-policy" (include "tollgate.fullname" .) -}}
{{- end -}}
{{- end -}}
{{- define "tollgate.policyKey" -}}
{{- if .Values.existingPolicyConfigMap -}}{{- .Values.existingPolicyKey -}}{{- else -}}policy.toml{{- end -}}
{{- end -}}

{{/*
The policy of the values as JSON. Without pools of its own it extends the newest built-in programme, unless it names
another one.
*/}}
{{- define "tollgate.policy" -}}
{{- $policy := dict -}}
{{- range $part, $value := .Values.policy -}}
{{- if not (kindIs "invalid" $value) -}}{{- $_ := set $policy $part (mustDeepCopy $value) -}}{{- end -}}
{{- end -}}
{{- $program := default dict $policy.program -}}
{{- if not (or $policy.pools $program.extends) -}}
{{- $_ := set $policy "program" (set $program "extends" "openai-2026-09-28") -}}
{{- end -}}
{{- /* YAML reads an unquoted off as false. */ -}}
{{- range $org, $terms := $policy.orgs -}}
{{- if kindIs "bool" $terms.data_sharing -}}{{- $_ := set $terms "data_sharing" "off" -}}{{- end -}}
{{- end -}}
{{- toJson $policy -}}
{{- end -}}

{{/* The organization of `helm test` and of the notes; empty if it is unknown. */}}
{{- define "tollgate.testOrg" -}}
{{- if .Values.test.org -}}
{{- .Values.test.org -}}
{{- else if .Values.existingPolicyConfigMap -}}
{{- else if .Values.policy -}}
{{- keys (default dict .Values.policy.orgs) | sortAlpha | first -}}
{{- else -}}
org-demo
{{- end -}}
{{- end -}}

{{/* Not empty if there is a pod for `helm test`: if an organization is known, and the pod has credentials. */}}
{{- define "tollgate.hasTest" -}}
{{- $trusts := or (not .Values.tls.existingSecret) .Values.test.tlsSecret -}}
{{- $known := or (not .Values.callers.existingSecret) .Values.test.tokenSecret (ne .Values.tls.clientCertificates "none") -}}
{{- if and (include "tollgate.testOrg" .) $trusts $known -}}yes{{- end -}}
{{- end -}}
