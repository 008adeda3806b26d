# kvx beside models on NVIDIA GPUs: shm between the GPUs of a host, Mooncake's flavour for CUDA 13 between hosts. The driver comes
# from the host, through NVIDIA's container toolkit: docker run --gpus all --ipc host --ulimit memlock=-1
#   docker build -f docker/cpu.Dockerfile -t kvx:cpu . && docker build -f docker/cuda.Dockerfile -t kvx:cuda .
ARG KVX_IMAGE=kvx:cpu
ARG BASE_IMAGE=nvidia/cuda:13.0.1-base-ubuntu24.04

FROM ${KVX_IMAGE} AS kvx
# hadolint ignore=DL3002
USER 0
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update && \
    apt-get install -y --no-install-recommends python3 python3-pip ca-certificates && \
    rm -rf /var/lib/apt/lists/*
ARG MOONCAKE_FLAVOUR=cuda13
RUN kvx backend install mooncake --flavour "$MOONCAKE_FLAVOUR"

FROM ${BASE_IMAGE}
# hadolint ignore=DL3008
RUN apt-get update && \
    apt-get install -y --no-install-recommends libnuma1 libibverbs1 ibverbs-providers libcurl4t64 && \
    rm -rf /var/lib/apt/lists/*
COPY --from=kvx /usr/local/bin/node /usr/local/bin/node
COPY --from=kvx /opt/kvx /opt/kvx
COPY --from=kvx /var/lib/kvx /var/lib/kvx
ENV KVX_CACHE=/var/lib/kvx PATH=/opt/kvx/node_modules/.bin:$PATH NODE_ENV=production
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN useradd --system --uid 990 --create-home --home-dir /home/kvx kvx && chown -R kvx /var/lib/kvx
USER 990
WORKDIR /home/kvx
RUN kvx doctor shm
ENTRYPOINT ["kvx"]
CMD ["--help"]
