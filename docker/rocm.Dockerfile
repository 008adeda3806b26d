# kvx between hosts with AMD GPUs: MORI from its wheel (ENABLE_MORI=1), and the user space of the network card where Ubuntu carries it.
#   docker build -f docker/cpu.Dockerfile -t kvx:cpu . && \
#   docker build -f docker/rocm.Dockerfile -t kvx:rocm --build-arg ENABLE_MORI=1 --build-arg NIC_BACKEND=bnxt .
# Memory of AMD GPUs has never been tried with kvx (docs/engines/mori.md). Run with --device /dev/infiniband --ulimit memlock=-1
ARG KVX_IMAGE=kvx:cpu
ARG BASE_IMAGE=rocm/dev-ubuntu-24.04:7.0

FROM ${KVX_IMAGE} AS kvx
# hadolint ignore=DL3002
USER 0
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update && \
    apt-get install -y --no-install-recommends python3 python3-pip ca-certificates && \
    rm -rf /var/lib/apt/lists/*
ARG ENABLE_MORI=1
RUN case "$ENABLE_MORI" in \
      1) kvx backend install mori ;; \
      0) echo "ENABLE_MORI=0: without MORI" ;; \
      *) echo "ENABLE_MORI must be 0 or 1, got '$ENABLE_MORI'" >&2; exit 1 ;; \
    esac

FROM ${BASE_IMAGE}
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# What MORI and Mooncake link to.
# hadolint ignore=DL3008
RUN apt-get update && \
    apt-get install -y --no-install-recommends \
      libpci3 libdrm2 libdrm-amdgpu1 libnuma1 libibverbs1 ibverbs-providers libcurl4t64 && \
    rm -rf /var/lib/apt/lists/*
# The provider of libibverbs for the card, from the distribution's own package: kvx carries nothing of a vendor.
ARG NIC_BACKEND=none
RUN provider() { ls /usr/lib/x86_64-linux-gnu/libibverbs/lib"$1"-rdmav*.so > /dev/null 2>&1; }; \
    case "$NIC_BACKEND" in \
      none) echo "NIC_BACKEND=none: the providers that the distribution carries" ;; \
      bnxt) provider bnxt_re || { echo "NIC_BACKEND=bnxt: ibverbs-providers of this base has no libbnxt_re." >&2; exit 1; } ;; \
      ainic) provider ionic || { \
          echo "NIC_BACKEND=ainic: ibverbs-providers of this base has no libionic, the user space of AMD's AINIC (Pollara)." >&2; \
          echo "It is in AMD's own packages: install them in an image of yours and give that as BASE_IMAGE." >&2; exit 1; } ;; \
      *) echo "NIC_BACKEND must be none, bnxt or ainic, got '$NIC_BACKEND'" >&2; exit 1 ;; \
    esac
COPY --from=kvx /usr/local/bin/node /usr/local/bin/node
COPY --from=kvx /opt/kvx /opt/kvx
COPY --from=kvx /var/lib/kvx /var/lib/kvx
ENV KVX_CACHE=/var/lib/kvx PATH=/opt/kvx/node_modules/.bin:$PATH NODE_ENV=production
RUN useradd --system --uid 990 --create-home --home-dir /home/kvx kvx && chown -R kvx /var/lib/kvx
USER 990
WORKDIR /home/kvx
RUN kvx doctor shm
ENTRYPOINT ["kvx"]
CMD ["--help"]
