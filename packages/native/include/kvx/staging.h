// Gathers the source runs of a plan into one long run, and scatters such a run into the plan's
// destinations: in the order in which `TransferPlan` of @kvx/contract defines its copies.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "kvx/plan.h"

namespace kvx {

// Memory of a region; null for one that is not registered.
struct CopyMemory {
  uint8_t* bytes = nullptr;
  uint64_t size = 0;
};

enum class Side { kSource, kDestination };

// Checks a whole plan against the regions of one side: nothing is known of the other. Returns the
// bytes that the plan moves, `most` at most, which is below 2^42. Throws PlanError.
inline uint64_t check_side(const Plan& plan, Side side, std::span<const CopyMemory> memories,
                           uint64_t most) {
  using detail::Wide;
  detail::check_numbers(plan);
  std::vector<uint64_t> sizes;
  for (const CopyMemory& memory : memories) sizes.push_back(memory.bytes ? memory.size : 0);
  const bool is_source = side == Side::kSource;
  Wide total = 0;
  for (size_t b = 0; b < plan.blocks.size(); b += kBlockWidth) {
    const int32_t* block = plan.blocks.data() + b;
    Wide pages = 0, end_page = 0;
    for (int32_t g = block[0]; g < block[1]; g++) {
      const int32_t* group = plan.groups.data() + static_cast<size_t>(g) * kGroupWidth;
      if (group[2] == 0) continue;
      pages += group[2];
      end_page = std::max(end_page, Wide(group[is_source ? 0 : 1]) + group[2]);
    }
    if (pages == 0) continue;
    for (int32_t l = block[2]; l < block[3]; l++) {
      const auto row = static_cast<size_t>(l);
      const detail::Lane lane = detail::lane_at(plan, row);
      if (lane.run_bytes == 0 || lane.runs == 0) continue;
      const Wide base = is_source ? lane.source_base : lane.destination_base;
      const Wide page_bytes = is_source ? lane.source_page_bytes : lane.destination_page_bytes;
      const Wide stride = is_source ? lane.source_stride : lane.destination_stride;
      detail::check_range(
          is_source ? "source" : "destination", row,
          is_source ? lane.source_region : lane.destination_region, sizes,
          base + (end_page - 1) * page_bytes + Wide(lane.runs - 1) * stride + lane.run_bytes);
      // Each factor is bounded first, so that their product cannot overflow.
      const bool is_bounded = pages <= most && lane.runs <= most && lane.run_bytes <= most;
      if (is_bounded) total += pages * lane.runs * lane.run_bytes;
      if (!is_bounded || total > most) {
        throw PlanError("the plan moves more bytes than the staging memory holds from there on");
      }
    }
  }
  return static_cast<uint64_t>(total);
}

// Of a plan that check_side has passed for the sources; `into` holds what it returned.
inline void gather(const Plan& plan, std::span<const CopyMemory> memories, uint8_t* into) {
  expand_plan(plan, 0, [&](const Segment& run) {
    std::memcpy(into, memories[run.source_region].bytes + run.source_offset, run.bytes);
    into += run.bytes;
    return true;
  });
}

// Of a plan that check_side has passed for the destinations; `from` holds what it returned.
inline void scatter(const Plan& plan, std::span<const CopyMemory> memories, const uint8_t* from) {
  expand_plan(plan, 0, [&](const Segment& run) {
    std::memcpy(memories[run.destination_region].bytes + run.destination_offset, from, run.bytes);
    from += run.bytes;
    return true;
  });
}

}  // namespace kvx
