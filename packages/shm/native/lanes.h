// Which lanes of a plan a GPU copies. Pure.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "kvx/plan.h"

namespace kvx::shm {

struct GpuLanes {
  int gpu;
  Plan plan;
  uint64_t segments;  // contiguous pieces that it stands for
};

// The ordinal of the GPU that copies from a source region to a destination region, or nothing.
using GpuOf = std::function<std::optional<int>(uint32_t source, uint32_t destination)>;

// The GPU that copies all of a plan that check_plan has passed; nothing where the host or several
// GPUs do, or nothing is copied.
std::optional<int> only_gpu(const Plan& plan, const GpuOf& gpu_of);

// Takes out of a plan that check_plan has passed what GPUs copy.
std::vector<GpuLanes> take_gpu_lanes(Plan& plan, const GpuOf& gpu_of);

}  // namespace kvx::shm
