# One image for every role: `docker run IMAGE worker`, `… learner`, `… doctor`.
# Build stage: locked packages into /opt/venv. Run stage: that folder, no compiler, no pip cache, not root.

FROM python:3.11-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/venv
COPY deploy/requirements.lock /src/deploy/
RUN /opt/venv/bin/pip install --require-hashes -r /src/deploy/requirements.lock
COPY pyproject.toml README.md LICENSE /src/
COPY pruning /src/pruning
COPY stream_app /src/stream_app
RUN /opt/venv/bin/pip install --no-deps /src
# Compile the numeric kernels now: a container that starts is ready in a second instead of half a minute. They are
# for the processor of the build machine; on another one the first start compiles anew.
COPY deploy/warm.jsonl /src/deploy/
RUN NUMBA_CACHE_DIR=/opt/kernels /opt/venv/bin/recs evaluate /src/deploy/warm.jsonl --json > /dev/null

FROM python:3.11-slim-bookworm
RUN groupadd --gid 10001 recs && useradd --uid 10001 --gid recs --no-create-home --shell /usr/sbin/nologin recs \
    && install -d -o recs -g recs -m 0700 /var/lib/recs
COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/kernels /opt/kernels
COPY --chmod=0755 deploy/entrypoint.sh deploy/healthcheck.py /usr/local/bin/
# The root file system may be read-only: state goes to the volume, everything else to /tmp.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    NUMBA_CACHE_DIR=/tmp/kernels HOME=/tmp \
    RECS_STATE_DIR=/var/lib/recs
USER 10001:10001
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["healthcheck.py"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["entrypoint.sh"]
CMD ["--help"]
