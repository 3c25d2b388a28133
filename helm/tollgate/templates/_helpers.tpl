{{- define "tollgate.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{/* Short enough for what is added to it: the longest is `-dashboard`. */}}
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
Takes a dict: `root`; `component`, which is `server` for the pods and the Service in front of them; and `more`, labels
that the values give to this one, where there are any. A label that is given twice is there once.
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

{{/* How many replicas there are without autoscaling. */}}
{{- define "tollgate.replicas" -}}
{{- if kindIs "invalid" .Values.replicas -}}
{{- ternary 2 1 (eq .Values.store.type "redis") -}}
{{- else -}}
{{- int .Values.replicas -}}
{{- end -}}
{{- end -}}

{{/* Not empty where there may be more than one replica. */}}
{{- define "tollgate.manyReplicas" -}}
{{- if or .Values.autoscaling.enabled (gt (int (include "tollgate.replicas" .)) 1) -}}yes{{- end -}}
{{- end -}}

{{/* A duration of numbers with units, such as `500ms`, `25s` or `1m30s`, in milliseconds. */}}
{{- define "tollgate.milliseconds" -}}
{{- $units := dict "ms" 1 "s" 1000 "m" 60000 "min" 60000 "h" 3600000 "d" 86400000 "day" 86400000 "days" 86400000 -}}
{{- $sum := int64 0 -}}
{{- range regexFindAll "[0-9]+[a-z]+" . -1 -}}
{{- $sum = add $sum (mul (regexFind "^[0-9]+" . | int64) (get $units (regexFind "[a-z]+$" .))) -}}
{{- end -}}
{{- $sum -}}
{{- end -}}

{{/* When the program has ended by itself, in whole seconds: its grace period holds the drain delay. */}}
{{- define "tollgate.graceSeconds" -}}
{{- div (add (include "tollgate.milliseconds" .Values.settings.grace_period | int64) 999) 1000 -}}
{{- end -}}

{{/* What the kubelet waits besides: the process has to start to end, and to be gone. */}}
{{- define "tollgate.terminationSeconds" -}}
{{- if kindIs "invalid" .Values.terminationGracePeriodSeconds -}}
{{- add (include "tollgate.graceSeconds" .) 5 -}}
{{- else -}}
{{- int .Values.terminationGracePeriodSeconds -}}
{{- end -}}
{{- end -}}

{{/* Which ConfigMap holds the policy, and under which key; both empty with the built-in policy. */}}
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

{{/* The policy of the values as JSON; a part that they leave out is the programme's. */}}
{{- define "tollgate.policy" -}}
{{- $policy := .Files.Get "files/programme.yaml" | fromYaml -}}
{{- /* The day is of the lists there, and not of others. */ -}}
{{- if get (default dict .Values.policy) "pools" -}}{{- $_ := unset $policy.program "as_of" -}}{{- end -}}
{{- range $part, $value := .Values.policy -}}
{{- if not (kindIs "invalid" $value) -}}{{- $_ := set $policy $part (mustDeepCopy $value) -}}{{- end -}}
{{- end -}}
{{- /* YAML takes an unquoted off for false. */ -}}
{{- range $org, $terms := $policy.orgs -}}
{{- if kindIs "bool" $terms.data_sharing -}}{{- $_ := set $terms "data_sharing" "off" -}}{{- end -}}
{{- end -}}
{{- toJson $policy -}}
{{- end -}}

{{/* The organization of `helm test` and of the notes; empty where nobody can know one. */}}
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

{{/* Not empty where there is a pod for `helm test`: one that knows an organization, and that the service lets in. */}}
{{- define "tollgate.hasTest" -}}
{{- $trusts := or (not .Values.tls.existingSecret) .Values.test.tlsSecret -}}
{{- $known := or (not .Values.callers.existingSecret) .Values.test.tokenSecret (ne .Values.tls.clientCertificates "none") -}}
{{- if and (include "tollgate.testOrg" .) $trusts $known -}}yes{{- end -}}
{{- end -}}
