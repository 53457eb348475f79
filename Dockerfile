# Images of the server. docs/docker.md describes how to run them; deploy/build-check builds and checks one.
#
#   docker build --target cpu          -t llamagen-serve:cpu .           runs everywhere; the default target
#   docker build --target cpu-compiled -t llamagen-serve:cpu-compiled .  with a C++ compiler: models run compiled
#   docker build --target cuda         -t llamagen-serve:cuda .          on vLLM's own image
#
# A pip configuration (an index, its password) enters as a build secret and stays out of the image:
#   docker build --secret id=pip_config,src="$HOME/.config/pip/pip.conf" ...

ARG CPU_BASE=debian:bookworm-slim
ARG VLLM_IMAGE=vllm/vllm-openai:v0.32.0


FROM ${CPU_BASE} AS builder
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3-venv \
    && rm -rf /var/lib/apt/lists/*
ENV PIP_NO_CACHE_DIR=1
WORKDIR /build


# The libraries, without the project: this layer stays the same while only the code changes.
FROM builder AS libraries
COPY scripts/install.sh scripts/
COPY requirements/cpu.txt requirements/
COPY pyproject.toml ./
# Afterwards the tools that build and install packages are removed, and the project, which has no code yet.
RUN --mount=type=secret,id=pip_config,target=/etc/pip.conf \
    touch LICENSE README.md requirements/dev.txt \
    && scripts/install.sh /opt/venv cpu \
    && /opt/venv/bin/python -m pip uninstall --yes --quiet \
        llamagen-serve editables hatchling ninja pathspec trove-classifiers pip \
    && rm -f /opt/venv/install.log /opt/venv/.llamagen-*


# The project as a wheel in /dist, and as files to lay over /opt/venv in /package.
FROM builder AS package
COPY pyproject.toml README.md LICENSE ./
COPY requirements/cpu.txt requirements/
COPY tokenizer tokenizer
COPY vllm_plugin vllm_plugin
COPY server server
RUN --mount=type=secret,id=pip_config,target=/etc/pip.conf \
    python3 -m venv /opt/venv \
    && PIP_CONSTRAINT=requirements/cpu.txt /opt/venv/bin/python -m pip wheel --quiet --no-deps --wheel-dir /dist . \
    && /opt/venv/bin/python -m pip install --quiet --no-deps --no-index --prefix /package /dist/*.whl


FROM ${VLLM_IMAGE} AS cuda
USER 0
# pip adds what vLLM's image lacks and keeps the versions that are there.
RUN --mount=type=secret,id=pip_config,target=/etc/pip.conf \
    --mount=type=bind,from=package,source=/dist,target=/dist \
    python3 -m pip install --quiet --no-cache-dir /dist/*.whl \
    && mkdir -p /cache /models && chmod 0775 /cache
COPY deploy/docker/entrypoint /usr/local/bin/llamagen-entrypoint
# An arbitrary uid has no entry in /etc/passwd, hence HOME and USER.
ENV HOME=/cache USER=llamagen XDG_CACHE_HOME=/cache PYTHONDONTWRITEBYTECODE=1
VOLUME ["/cache", "/models"]
WORKDIR /models
USER 10001:0
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["/usr/local/bin/llamagen-entrypoint"]
ARG VERSION=0.1.0
ARG REVISION=""
ARG SOURCE=""
LABEL org.opencontainers.image.title="llamagen-serve" \
      org.opencontainers.image.description="Serves LlamaGen image models with classifier-free guidance on vLLM" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.licenses="Apache-2.0"


FROM ${CPU_BASE} AS cpu-base
RUN apt-get update \
    && apt-get install -y --no-install-recommends libnuma1 python3 \
    && rm -rf /var/cache/* /var/lib/apt/lists/* /var/log/* \
    && mkdir -p /cache /models && chmod 0775 /cache
COPY --from=libraries /opt/venv /opt/venv
COPY --from=package /package /opt/venv
COPY deploy/docker/entrypoint /usr/local/bin/llamagen-entrypoint
ENV PATH=/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
# An arbitrary uid has no entry in /etc/passwd, hence HOME and USER.
ENV HOME=/cache USER=llamagen XDG_CACHE_HOME=/cache PYTHONDONTWRITEBYTECODE=1
VOLUME ["/cache", "/models"]
WORKDIR /models
USER 10001:0
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["/usr/local/bin/llamagen-entrypoint"]
ARG VERSION=0.1.0
ARG REVISION=""
ARG SOURCE=""
LABEL org.opencontainers.image.title="llamagen-serve" \
      org.opencontainers.image.description="Serves LlamaGen image models with classifier-free guidance on vLLM" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.licenses="Apache-2.0"


# torch.compile calls the compiler even to load what it compiled before, so this image keeps it. What the demo model
# needs is compiled now; for another model, or a CPU with other vector units, it is compiled at the first start.
FROM cpu-base AS cpu-compiled
USER 0
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ openssl python3-dev \
    && rm -rf /var/cache/* /var/lib/apt/lists/* /var/log/*
RUN mkdir /tmp/warm \
    && HOME=/tmp/warm TMPDIR=/tmp/warm XDG_CACHE_HOME=/opt/cache \
        python3 -c "from llamagen_server import ImageEngine; ImageEngine().close()" \
    && chmod -R a+rX /opt/cache && rm -rf /tmp/warm
USER 10001:0


# Last, so that it is the default target. Nothing is compiled in it: models run eagerly.
FROM cpu-base AS cpu
USER 10001:0
