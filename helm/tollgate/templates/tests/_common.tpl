{{/* The last arguments of a client, and the rest of its container. */}}
{{- define "tollgate.test.common" -}}
{{- $root := .root }}
{{- $tls := and $root.Values.tls.existingSecret $root.Values.test.tlsSecret }}
  - --addr
  - {{ .address }}
  - --json
  {{- if $tls }}
  - --ca-file
  - /etc/tollgate/tls/ca.crt
  {{- if ne $root.Values.tls.clientCertificates "none" }}
  - --cert-file
  - /etc/tollgate/tls/tls.crt
  - --key-file
  - /etc/tollgate/tls/tls.key
  {{- end }}
  {{- end }}
image: {{ include "tollgate.image" $root | quote }}
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
env:
  - name: POD_UID
    valueFrom:
      fieldRef:
        fieldPath: metadata.uid
  {{- if and $root.Values.callers.existingSecret $root.Values.test.tokenSecret }}
  - name: TOLLGATE_TOKEN
    valueFrom:
      secretKeyRef:
        name: {{ $root.Values.test.tokenSecret }}
        key: {{ $root.Values.test.tokenSecretKey }}
  {{- end }}
resources:
  {{- toYaml $root.Values.test.resources | nindent 2 }}
securityContext:
  {{- include "tollgate.containerSecurity" $root | nindent 2 }}
{{- if $tls }}
volumeMounts:
  - name: tls
    mountPath: /etc/tollgate/tls
    readOnly: true
{{- end }}
{{- end -}}
