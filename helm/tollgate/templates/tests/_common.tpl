{{/* The end of a client's arguments, and the rest of its container. */}}
{{- define "tollgate.test.common" -}}
{{- $root := .root }}
  - --addr
  - {{ .address }}
  - --json
  {{- range $root.Values.test.extraArgs }}
  - {{ . | quote }}
  {{- end }}
image: {{ include "tollgate.image" $root | quote }}
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
env:
  - name: POD_UID
    valueFrom:
      fieldRef:
        fieldPath: metadata.uid
  {{- with $root.Values.test.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
resources:
  {{- toYaml $root.Values.resources | nindent 2 }}
securityContext:
  {{- include "tollgate.containerSecurity" $root | nindent 2 }}
{{- with $root.Values.test.extraVolumeMounts }}
volumeMounts:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
