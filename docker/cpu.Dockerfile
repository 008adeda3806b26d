# kvx for processors: every command, the engines shm and mooncake, a small model. The other images take kvx from this one.
#   docker build -f docker/cpu.Dockerfile -t kvx:cpu .
ARG BASE_IMAGE=node:22-bookworm-slim

# The packages of this repository as npm will have them, installed as a user installs them, and compiled for this base.
FROM ${BASE_IMAGE} AS build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update && \
    apt-get install -y --no-install-recommends g++ make python3 python3-pip ca-certificates && \
    rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
RUN npm install --ignore-scripts --no-audit --no-fund && npx tsc -b && node tools/native/zeromq.mjs
RUN mkdir /packed && \
    for name in contract core native vendor shm mooncake mori llama server bench cli; do \
      npm pack --silent --pack-destination /packed "./packages/$name"; \
    done
WORKDIR /opt/kvx
# llama.cpp with the build for this processor, and not those for GPUs, which are its optional dependencies.
RUN llama="$(node -p 'require("/source/packages/llama/package.json").peerDependencies["node-llama-cpp"]')" && \
    npm install --omit=dev --omit=optional --ignore-scripts --no-audit --no-fund /packed/*.tgz \
      "node-llama-cpp@$llama" "@node-llama-cpp/linux-$(node -p process.arch)@$llama" && \
    npx kvx-native build @kvx/native @kvx/shm @kvx/mooncake @kvx/mori
ENV KVX_CACHE=/var/lib/kvx
RUN npx kvx model pull smollm2 && npx kvx backend install mooncake

FROM ${BASE_IMAGE}
# What Mooncake links to.
# hadolint ignore=DL3008
RUN apt-get update && \
    apt-get install -y --no-install-recommends libnuma1 libibverbs1 libcurl4 && \
    rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/kvx /opt/kvx
COPY --from=build /var/lib/kvx /var/lib/kvx
ENV KVX_CACHE=/var/lib/kvx PATH=/opt/kvx/node_modules/.bin:$PATH NODE_ENV=production
RUN useradd --system --uid 990 --create-home --home-dir /home/kvx kvx && chown -R kvx /var/lib/kvx
USER 990
WORKDIR /home/kvx
# Where the engine for one host cannot run no image is made.
RUN kvx doctor shm
ENTRYPOINT ["kvx"]
CMD ["--help"]
