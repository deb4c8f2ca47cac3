# The command line with the dashboard, ZMQ, webhooks, and what a fleet needs. Two stages, so that the image has no compiler.
FROM python:3.13-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev git && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN python -m venv /opt/kvstream && /opt/kvstream/bin/pip install --no-cache-dir '.[cli,web,zmq,webhook,zstd,prometheus,kafka,bucket]' s3fs
# An image without a compiled core would be a slow one that nobody notices.
RUN /opt/kvstream/bin/python -P -c "from kvstream._core.build import COMPILED; assert COMPILED"

FROM python:3.13-slim
COPY --from=build /opt/kvstream /opt/kvstream
RUN useradd --system --uid 10001 --no-create-home kvstream && install -d -o kvstream /run/kvstream
# The socket's, to be shared with engines; a volume can be written to where the root file system cannot.
VOLUME /run/kvstream
USER 10001
ENV PATH=/opt/kvstream/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
EXPOSE 9109
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s \
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:9109/healthz', timeout=2)"]
ENTRYPOINT ["kvstream"]
CMD ["serve", "--http", "0.0.0.0:9109", "--listen", "unix:/run/kvstream/kvstream.sock"]
