# The bases are arguments so that a release names them by digest:
#   docker build --build-arg BUILD_IMAGE=…@sha256:… --build-arg RUN_IMAGE=…@sha256:… --build-arg REVISION=$(git rev-parse HEAD) .
# Both have to bring Python 3.11: what is compiled in the first runs in the second. The second has no shell, no package
# manager and no root: what is not there needs no patching and cannot be used by whoever breaks in.
ARG BUILD_IMAGE=docker.io/library/python:3.11-slim-bookworm
ARG RUN_IMAGE=gcr.io/distroless/python3-debian12:nonroot

FROM ${BUILD_IMAGE} AS build
WORKDIR /build

# Everything that ends up in the image, and what builds it, is locked by hash. First what changes seldom.
COPY requirements/build.txt requirements/run.txt requirements/
RUN python3 -m venv /venv \
 && /venv/bin/python -m pip install --no-cache-dir --no-deps --require-hashes --only-binary :all: -r requirements/build.txt
RUN /venv/bin/python -m pip install --no-cache-dir --no-compile --no-deps --require-hashes --only-binary :all: \
      --target /opt/governors -r requirements/run.txt

COPY pyproject.toml README.md LICENSE ./
COPY src src
# Compiled here, since nobody can write there later; unchecked, since times change from layer to layer.
RUN /venv/bin/python -m pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels . \
 && /venv/bin/python -m pip install --no-cache-dir --no-compile --no-deps --no-index --target /opt/own /wheels/*.whl \
 && cp -a /opt/own/governors /opt/own/ingest /opt/own/ledger /opt/own/governors-*.dist-info /opt/governors/ \
 && rm -rf /opt/governors/bin \
 && python3 -m compileall -q --invalidation-mode unchecked-hash /opt/governors \
 && mkdir -p /opt/data

FROM ${RUN_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="governors" \
      org.opencontainers.image.description="Per-tenant governors whose every decision leaves a receipt that anybody can verify" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"

COPY --from=build /opt/governors /opt/governors
COPY --from=build --chown=65532:65532 /opt/data /var/lib/governors

ENV PYTHONPATH=/opt/governors \
    PYTHONDONTWRITEBYTECODE=1 \
    GOVERNORS_DATA_DIR=/var/lib/governors \
    GOVERNORS_LOG__FORMAT=json
USER 65532:65532
# An image whose base lacks what a compiled module needs is not made, nor one that would fall back to a slow checksum.
RUN ["/usr/bin/python3", "-W", "error::RuntimeWarning", "-c", \
     "import governors.app, governors.pubsub, google.cloud.storage, google_crc32c, importlib.metadata as m; m.version('governors')"]
WORKDIR /var/lib/governors
# The only place that is written to. Everything else may be mounted read-only.
VOLUME /var/lib/governors
EXPOSE 8080
STOPSIGNAL SIGTERM
# Kubernetes asks over HTTP and does not look at this. Under TLS: --health-cmd 'python3 -m governors.probe https://…'.
HEALTHCHECK --interval=10s --timeout=4s --start-period=30s --retries=3 \
  CMD ["/usr/bin/python3", "-m", "governors.probe"]
ENTRYPOINT ["/usr/bin/python3", "-m", "governors"]
# Without a configuration it listens on the container's own loopback alone, since nobody is asked who they are.
CMD ["serve"]
