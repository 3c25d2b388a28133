{{/*
The pod of the Deployment or StatefulSet. It meets the restricted pod security standard. The program reads the settings
once, so their checksum is an annotation. It follows policy, callers and certificates, which are mounted as directories
so that the kubelet updates them.
*/}}
{{- define "tollgate.pod" -}}
metadata:
  annotations:
    {{- $ours := dict "checksum/settings" (include "tollgate.settings" . | sha256sum) }}
    {{- toYaml (merge $ours (default dict .Values.podAnnotations)) | nindent 4 }}
  labels:
    {{- include "tollgate.podLabels" . | nindent 4 }}
spec:
  serviceAccountName: {{ include "tollgate.serviceAccount" . }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  securityContext:
    {{- include "tollgate.podSecurity" . | nindent 4 }}
  terminationGracePeriodSeconds: {{ include "tollgate.terminationSeconds" . }}
  containers:
    - name: tollgate
      image: {{ include "tollgate.image" . | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args:
        - serve
      env:
        {{- include "tollgate.env" . | nindent 8 }}
      ports:
        - name: grpc
          containerPort: 50051
          protocol: TCP
        - name: http
          containerPort: 9464
          protocol: TCP
      startupProbe:
        {{- include "tollgate.probe" (dict "root" . "probe" .Values.probes.startup "service" "liveness" "path" "/livez") | nindent 8 }}
      livenessProbe:
        {{- include "tollgate.probe" (dict "root" . "probe" .Values.probes.liveness "service" "liveness" "path" "/livez") | nindent 8 }}
      {{- if eq (toString .Values.settings.on_store_failure) "billed" }}
      # Not readiness: without a store no pod is ready, and the Service would have none to answer BILLED. A pod that
      # stops leaves the Service anyway.
      readinessProbe:
        {{- include "tollgate.probe" (dict "root" . "probe" .Values.probes.readiness "service" "liveness" "path" "/livez") | nindent 8 }}
      {{- else }}
      readinessProbe:
        {{- include "tollgate.probe" (dict "root" . "probe" .Values.probes.readiness "service" "readiness" "path" "/readyz") | nindent 8 }}
      {{- end }}
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
      securityContext:
        {{- include "tollgate.containerSecurity" . | nindent 8 }}
      volumeMounts:
        {{- include "tollgate.volumeMounts" . | nindent 8 }}
  volumes:
    {{- include "tollgate.volumes" . | nindent 4 }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if include "tollgate.manyReplicas" . }}
  {{- with .Values.topologySpreadConstraints }}
  {{- $ours := dict "matchLabels" (include "tollgate.selector" $ | fromYaml) }}
  topologySpreadConstraints:
    {{- range . }}
    - {{- toYaml (merge (deepCopy .) (ternary dict (dict "labelSelector" $ours) (hasKey . "labelSelector"))) | nindent 6 }}
    {{- end }}
  {{- end }}
  {{- end }}
{{- end -}}

{{/* The selector's labels take precedence over those of the values, so that the Services find the pods. */}}
{{- define "tollgate.podLabels" -}}
{{- $ours := include "tollgate.selector" . | fromYaml -}}
{{- toYaml (merge $ours (default dict .Values.podLabels) (default dict .Values.commonLabels)) -}}
{{- end -}}

{{- define "tollgate.podSecurity" -}}
runAsNonRoot: true
seccompProfile:
  type: RuntimeDefault
{{- range $name, $id := .Values.podSecurityContext }}
{{- if not (kindIs "invalid" $id) }}
{{ $name }}: {{ int $id }}
{{- end }}
{{- end }}
{{- if not (kindIs "invalid" .Values.podSecurityContext.fsGroup) }}
fsGroupChangePolicy: OnRootMismatch
{{- end }}
{{- end -}}

{{- define "tollgate.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop:
    - ALL
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* The kubelet's gRPC probes do not support TLS: with TLS on the gRPC port, the probes use HTTP. */}}
{{- define "tollgate.probe" -}}
{{- if .root.Values.tls.existingSecret -}}
httpGet:
  path: {{ .path }}
  port: http
  scheme: {{ ternary "HTTPS" "HTTP" (not (empty .root.Values.httpTls.existingSecret)) }}
{{- else -}}
grpc:
  port: 50051
  service: {{ .service }}
{{- end }}
{{ toYaml .probe }}
{{- end -}}

{{- define "tollgate.env" -}}
- name: TOLLGATE_CONFIG
  value: /etc/tollgate/settings/tollgate.toml
{{- with .Values.redis }}
{{- if .existingSecret }}
- name: TOLLGATE_STORE
  valueFrom:
    secretKeyRef:
      name: {{ .existingSecret }}
      key: {{ .existingSecretKey }}
{{- end }}
{{- if .login.existingSecret }}
- name: TOLLGATE_REDIS_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ .login.existingSecret }}
      key: {{ .login.existingSecretKey }}
{{- end }}
{{- if .sentinel.existingSecret }}
- name: TOLLGATE_REDIS_SENTINEL_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ .sentinel.existingSecret }}
      key: {{ .sentinel.existingSecretKey }}
{{- end }}
{{- end }}
{{- with .Values.notify }}
{{- if .existingSecret }}
- name: TOLLGATE_NOTIFY_URL
  valueFrom:
    secretKeyRef:
      name: {{ .existingSecret }}
      key: {{ .existingSecretKey }}
{{- end }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "tollgate.volumeMounts" -}}
- name: settings
  mountPath: /etc/tollgate/settings
  readOnly: true
{{- if include "tollgate.policyConfigMap" . }}
- name: policy
  mountPath: /etc/tollgate/policy
  readOnly: true
{{- end }}
{{- range $name, $secret := include "tollgate.secrets" . | fromYaml }}
- name: {{ $name }}
  mountPath: /etc/tollgate/{{ $name }}
  readOnly: true
{{- end }}
{{- if eq .Values.store.type "file" }}
- name: data
  mountPath: /var/lib/tollgate
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "tollgate.volumes" -}}
- name: settings
  configMap:
    name: {{ include "tollgate.fullname" . }}
{{- with include "tollgate.policyConfigMap" . }}
- name: policy
  configMap:
    name: {{ . }}
{{- end }}
{{- range $name, $secret := include "tollgate.secrets" . | fromYaml }}
- name: {{ $name }}
  secret:
    secretName: {{ $secret }}
    # 0440, for the pod's group: the program does not run as root.
    defaultMode: 288
{{- end }}
{{- if and (eq .Values.store.type "file") .Values.store.file.existingClaim }}
- name: data
  persistentVolumeClaim:
    claimName: {{ .Values.store.file.existingClaim }}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The mounted Secrets, by their directory below /etc/tollgate. */}}
{{- define "tollgate.secrets" -}}
{{- range $name, $secret := dict "tls" .Values.tls.existingSecret "http-tls" .Values.httpTls.existingSecret "callers" .Values.callers.existingSecret "redis-tls" .Values.redis.tls.existingSecret "reconcile" .Values.reconcile.existingSecret }}
{{- if $secret }}
{{ $name }}: {{ $secret | quote }}
{{- end }}
{{- end }}
{{- end -}}
