# The image: the program, the authorities' certificates, and a place for the store `file:`. No shell, no libraries.
#
#   docker build -t tollgate .
#
# scripts/image-test builds and starts the last stage where there is no Docker.
ARG RUST_VERSION=1.95

FROM rust:${RUST_VERSION}-slim-bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates musl-tools \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    ./scripts/build-static /image

FROM scratch
# All belongs to root. The group is that of the user below, for the one folder that the group may write.
COPY --from=build --chown=0:65532 /image/ /
# By number: there is no /etc/passwd, and Kubernetes can see that it is not root.
USER 65532:65532
# Here the default store, ./tollgate.db, is made.
WORKDIR /var/lib/tollgate
EXPOSE 50051 9464
STOPSIGNAL SIGTERM
LABEL org.opencontainers.image.title="tollgate" \
      org.opencontainers.image.description="Quota authorization for an LLM gateway: decides whether a request is free or billed" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
ENTRYPOINT ["/tollgate"]
# On loopback, as everywhere, unless settings say otherwise: variables here would beat a settings file.
CMD ["serve"]
