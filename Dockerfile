# The whole relay in one image: orly-launcher runs orly-db, the relay workers, and orly-acl and orly-sync-negentropy where
# they are asked for. See docs/docker.md.
# Steps are ordered by how seldom they change. Needs no BuildKit.

# What building and running share: the interpreter, and the authorities that TLS trusts.
FROM debian:trixie-slim AS base
# hadolint ignore=DL3008  # a pinned version goes away with the next security update
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates python3 \
 && rm -rf /var/lib/apt/lists/* /var/cache/debconf/*-old /var/lib/dpkg/*-old /var/log/*.log /var/log/apt \
      /usr/lib/python3.13/_pyrepl /usr/lib/python3.13/pydoc_data /usr/lib/python3.13/test

# Dependencies, at the versions and hashes of the lock file, never compiled here; without what nothing here uses: debug
# symbols, tests, and the colours of other languages than Python's. The libraries that numpy brings along are aligned by
# hand, and `strip` would break them.
FROM base AS dependencies
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends binutils python3-venv \
 && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/tools && python3 -m venv --without-pip /opt/orly
COPY packaging/requirements.lock /tmp/
RUN /opt/tools/bin/pip --python /opt/orly/bin/python install --no-cache-dir --no-compile --only-binary :all: \
      --require-hashes -r /tmp/requirements.lock \
 && find /opt/orly -name '*.so' ! -path '*/numpy.libs/*' -exec strip --strip-unneeded {} + \
 && find /opt/orly -depth -type d \( -name tests -o -name test \) -exec rm -r {} + \
 && find /opt/orly -path '*/pygments/lexers/*' ! -name '_*.py' ! -name python.py -delete \
 && find /opt/orly \( -name '*.pyi' -o -name '*.c' -o -name '*.h' -o -name '*.pyx' -o -name '*.pxd' \) -delete

# The project itself, and bytecode for everything: the root file system may be read-only.
FROM dependencies AS build
COPY packaging/build.lock /tmp/
RUN /opt/tools/bin/pip install --no-cache-dir --only-binary :all: --require-hashes -r /tmp/build.lock
COPY . /src
RUN /opt/tools/bin/pip wheel --no-cache-dir --no-build-isolation --no-deps --no-index --wheel-dir /tmp/wheel /src \
 && /opt/tools/bin/pip --python /opt/orly/bin/python install --no-cache-dir --no-compile --no-deps --no-index \
      /tmp/wheel/orly-*.whl \
 && find /opt/orly -name '*.pyi' -delete \
 && python3 -m compileall -q --invalidation-mode unchecked-hash -j 0 /opt/orly

# What runs: no compiler, no pip, one user without a password.
FROM base
RUN groupadd --gid 10001 orly \
 && useradd --uid 10001 --gid 10001 --home-dir /nonexistent --no-create-home --shell /usr/sbin/nologin orly \
 && install -d -o orly -g root -m 0775 /data \
 && install -d -o orly -g root -m 1777 /run/orly
ENV PATH=/opt/orly/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    OPENBLAS_NUM_THREADS=1 \
    ORLY_DATA_DIR=/data \
    ORLY_RUN_DIR=/run/orly
COPY entrypoint.sh /usr/local/bin/entrypoint.sh
COPY --from=build /opt/orly /opt/orly
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 3334
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=10s --start-period=60s --retries=3 \
  CMD ["python", "-m", "orly.appliance.healthcheck"]
ENTRYPOINT ["entrypoint.sh"]
# Last, for they differ with every build.
ARG VERSION=unknown
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="ORLY" \
      org.opencontainers.image.description="A Nostr relay: fast, crash-safe, and configured by environment variables alone" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.created="$CREATED"
