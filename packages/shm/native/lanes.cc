#include "lanes.h"

#include <algorithm>
#include <map>
#include <utility>

namespace kvx::shm {

namespace {

// Who copies a lane, where it is not the ordinal of a GPU.
constexpr int kHost = -1, kNobody = -2;

uint64_t pages_of(const Plan& plan, const int32_t* block) {
  uint64_t pages = 0;
  for (int32_t g = block[0]; g < block[1]; g++) {
    pages += static_cast<uint64_t>(plan.groups[static_cast<size_t>(g) * kGroupWidth + 2]);
  }
  return pages;
}

uint64_t pieces_of_page(const detail::Lane& lane) {
  const bool one =
      lane.source_stride == lane.run_bytes && lane.destination_stride == lane.run_bytes;
  return one ? 1 : lane.runs;
}

uint64_t segments_of(const Plan& plan, const std::vector<int32_t>& blocks) {
  uint64_t segments = 0;
  for (size_t b = 0; b < blocks.size(); b += kBlockWidth) {
    uint64_t pieces = 0;
    for (int32_t l = blocks[b + 2]; l < blocks[b + 3]; l++) {
      pieces += pieces_of_page(detail::lane_at(plan, static_cast<size_t>(l)));
    }
    segments += pages_of(plan, blocks.data() + b) * pieces;
  }
  return segments;
}

// Who copies a lane. Lanes that follow each other are mostly between the same regions.
class Copiers {
 public:
  Copiers(const Plan& plan, const GpuOf& gpu_of) : plan_(plan), gpu_of_(gpu_of) {}

  int of(int32_t row) {
    const detail::Lane lane = detail::lane_at(plan_, static_cast<size_t>(row));
    // Of a lane that moves nothing the regions were not checked.
    if (lane.run_bytes == 0 || lane.runs == 0) return kNobody;
    if (const std::pair both{lane.source_region, lane.destination_region}; regions_ != both) {
      between_ = gpu_of_(static_cast<uint32_t>(lane.source_region),
                         static_cast<uint32_t>(lane.destination_region))
                     .value_or(kHost);
      regions_ = both;
    }
    return between_;
  }

 private:
  const Plan& plan_;
  const GpuOf& gpu_of_;
  std::pair<uint64_t, uint64_t> regions_{-1, -1};  // of the lane before; at first none's
  int between_ = kHost;
};

}  // namespace

std::optional<int> only_gpu(const Plan& plan, const GpuOf& gpu_of) {
  Copiers copiers(plan, gpu_of);
  int only = kNobody;
  for (size_t b = 0; b < plan.blocks.size(); b += kBlockWidth) {
    const int32_t* block = plan.blocks.data() + b;
    if (pages_of(plan, block) == 0) continue;
    for (int32_t row = block[2]; row < block[3]; row++) {
      const int copier = copiers.of(row);
      if (copier == kNobody || copier == only) continue;
      if (copier == kHost || only != kNobody) return std::nullopt;
      only = copier;
    }
  }
  return only == kNobody ? std::nullopt : std::optional(only);
}

std::vector<GpuLanes> take_gpu_lanes(Plan& plan, const GpuOf& gpu_of) {
  Copiers copiers(plan, gpu_of);
  std::map<int, std::vector<int32_t>> blocks;  // by who copies them
  for (size_t b = 0; b < plan.blocks.size(); b += kBlockWidth) {
    const int32_t* block = plan.blocks.data() + b;
    if (pages_of(plan, block) == 0) continue;
    int32_t first = block[2];
    while (first < block[3]) {
      const int copier = copiers.of(first);
      int32_t end = first + 1;
      while (end < block[3] && copiers.of(end) == copier) end++;
      auto& list = blocks[copier];
      list.insert(list.end(), {block[0], block[1], first, end});
      first = end;
    }
  }
  blocks.erase(kNobody);
  const auto host = blocks.extract(kHost);
  std::vector<GpuLanes> taken;
  const bool whole = host.empty() && blocks.size() == 1;
  for (auto& [gpu, list] : blocks) {
    const uint64_t segments = segments_of(plan, list);
    Plan part{{}, {}, std::move(list)};
    part.lanes = whole ? std::move(plan.lanes) : plan.lanes;
    part.groups = whole ? std::move(plan.groups) : plan.groups;
    taken.push_back({gpu, std::move(part), segments});
  }
  plan.blocks = host.empty() ? std::vector<int32_t>() : host.mapped();
  return taken;
}

}  // namespace kvx::shm
