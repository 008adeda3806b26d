// Transfer plans: the checks, and the expansion into contiguous segments. For every block, lane of
// the block, group of the block, page p of the group and run k of the lane:
//
//   copy run_bytes from source_base + (source_page + p) * source_page_bytes + k * source_stride
//               to destination_base + (destination_page + p) * destination_page_bytes + k *
//               destination_stride
//
// Every number comes from JavaScript, so nothing is computed in less than 128 bits before it was
// checked against the regions.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "kvx/driver.h"

namespace kvx {

inline constexpr size_t kLaneWidth = 10;
inline constexpr size_t kGroupWidth = 3;
inline constexpr size_t kBlockWidth = 4;

struct Plan {
  std::vector<double> lanes;
  std::vector<int32_t> groups;
  std::vector<int32_t> blocks;
};

class PlanError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

namespace detail {

using Wide = unsigned __int128;

struct Lane {
  uint64_t source_region, destination_region;
  uint64_t source_base, destination_base;
  uint64_t source_page_bytes, destination_page_bytes;
  uint64_t run_bytes, runs;
  uint64_t source_stride, destination_stride;
};

inline std::string text(Wide value) {
  std::string digits;
  do {
    digits.insert(digits.begin(), static_cast<char>('0' + static_cast<int>(value % 10)));
    value /= 10;
  } while (value != 0);
  return digits;
}

inline Lane lane_at(const Plan& plan, size_t row) {
  const double* field = plan.lanes.data() + row * kLaneWidth;
  const auto at = [field](size_t i) { return static_cast<uint64_t>(field[i]); };
  return {at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7), at(8), at(9)};
}

// An integer from 0 to 2^53; NaN is none.
inline bool is_count(double value) {
  constexpr double kLargest = 9007199254740992.0;
  return value >= 0 && value <= kLargest &&
         static_cast<double>(static_cast<int64_t>(value)) == value;
}

inline void check_numbers(const Plan& plan) {
  static constexpr const char* kLaneFields[kLaneWidth] = {
      "source region",     "destination region",    "source base", "destination base",
      "source pageBytes",  "destination pageBytes", "run bytes",   "runs per page",
      "source run stride", "destination run stride"};
  if (plan.lanes.size() % kLaneWidth != 0) throw PlanError("lanes must be rows of 10 numbers");
  if (plan.groups.size() % kGroupWidth != 0) throw PlanError("groups must be rows of 3 numbers");
  if (plan.blocks.size() % kBlockWidth != 0) throw PlanError("blocks must be rows of 4 numbers");
  for (size_t i = 0; i < plan.lanes.size(); i++) {
    const double value = plan.lanes[i];
    if (!is_count(value)) {
      throw PlanError(std::string(kLaneFields[i % kLaneWidth]) + " of lane " +
                      std::to_string(i / kLaneWidth) + " is " + std::to_string(value) +
                      ", which is not an integer from 0 to 2^53");
    }
  }
  for (size_t i = 0; i < plan.groups.size(); i++) {
    if (plan.groups[i] < 0) {
      throw PlanError("group " + std::to_string(i / kGroupWidth) + " holds the negative number " +
                      std::to_string(plan.groups[i]));
    }
  }
  const auto groups = static_cast<int64_t>(plan.groups.size() / kGroupWidth);
  const auto lanes = static_cast<int64_t>(plan.lanes.size() / kLaneWidth);
  for (size_t i = 0; i < plan.blocks.size(); i += kBlockWidth) {
    const int32_t* block = plan.blocks.data() + i;
    if (block[0] < 0 || block[0] > block[1] || block[1] > groups || block[2] < 0 ||
        block[2] > block[3] || block[3] > lanes) {
      throw PlanError("block " + std::to_string(i / kBlockWidth) +
                      " names groups or lanes that the plan does not have");
    }
  }
}

inline void check_range(const char* side, size_t row, uint64_t region,
                        std::span<const uint64_t> region_bytes, Wide end) {
  if (region >= region_bytes.size()) {
    throw PlanError("lane " + std::to_string(row) + " names " + side + " region " +
                    std::to_string(region) + ", but there are only " +
                    std::to_string(region_bytes.size()));
  }
  if (end > region_bytes[region]) {
    throw PlanError("lane " + std::to_string(row) + " reaches byte " + text(end) + " of " + side +
                    " region " + std::to_string(region) + ", which holds " +
                    std::to_string(region_bytes[region]) + " bytes");
  }
}

}  // namespace detail

// Checks a whole plan before any of it is used; region lists hold sizes in bytes. Returns the bytes
// that the plan moves. Throws PlanError.
inline uint64_t check_plan(const Plan& plan, std::span<const uint64_t> source_bytes,
                           std::span<const uint64_t> destination_bytes) {
  using detail::Wide;
  detail::check_numbers(plan);
  Wide capacity = 0;
  for (const uint64_t bytes : destination_bytes) capacity += bytes;
  Wide total = 0;
  for (size_t b = 0; b < plan.blocks.size(); b += kBlockWidth) {
    const int32_t* block = plan.blocks.data() + b;
    Wide pages = 0, source_pages = 0, destination_pages = 0;
    for (int32_t g = block[0]; g < block[1]; g++) {
      const int32_t* group = plan.groups.data() + static_cast<size_t>(g) * kGroupWidth;
      if (group[2] == 0) continue;
      pages += group[2];
      source_pages = std::max(source_pages, Wide(group[0]) + group[2]);
      destination_pages = std::max(destination_pages, Wide(group[1]) + group[2]);
    }
    if (pages == 0) continue;
    for (int32_t l = block[2]; l < block[3]; l++) {
      const auto row = static_cast<size_t>(l);
      const detail::Lane lane = detail::lane_at(plan, row);
      if (lane.run_bytes == 0 || lane.runs == 0) continue;
      const auto end = [&lane](uint64_t base, Wide page_end, uint64_t page_bytes, uint64_t stride) {
        return base + (page_end - 1) * page_bytes + Wide(lane.runs - 1) * stride + lane.run_bytes;
      };
      detail::check_range(
          "source", row, lane.source_region, source_bytes,
          end(lane.source_base, source_pages, lane.source_page_bytes, lane.source_stride));
      detail::check_range("destination", row, lane.destination_region, destination_bytes,
                          end(lane.destination_base, destination_pages, lane.destination_page_bytes,
                              lane.destination_stride));
      if ((lane.runs > 1 && lane.destination_stride < lane.run_bytes) ||
          (pages > 1 && lane.destination_page_bytes < lane.run_bytes)) {
        throw PlanError("lane " + std::to_string(row) +
                        " would write some destination bytes twice: its runs or pages overlap");
      }
      // Cannot overflow: the checks above bound runs * run_bytes by the region.
      total += pages * lane.runs * lane.run_bytes;
      if (total > capacity) {
        throw PlanError(
            "the plan writes more bytes than its destination regions hold, so some of them twice");
      }
    }
  }
  return static_cast<uint64_t>(total);
}

// Calls `sink(const Segment&) -> bool` for every contiguous piece of a plan that check_plan has
// passed, in the order of the plan; neighbours that are contiguous on both sides are one piece, and
// no piece is longer than `max_segment_bytes` (0: no limit). Stops when the sink answers false.
template <typename Sink>
void expand_plan(const Plan& plan, uint64_t max_segment_bytes, Sink&& sink) {
  Segment open{};  // the piece that may still grow; bytes == 0: none
  const auto flush = [&]() {
    while (open.bytes > 0) {
      Segment piece = open;
      if (max_segment_bytes > 0) piece.bytes = std::min(piece.bytes, max_segment_bytes);
      if (!sink(static_cast<const Segment&>(piece))) return false;
      open.source_offset += piece.bytes;
      open.destination_offset += piece.bytes;
      open.bytes -= piece.bytes;
    }
    return true;
  };
  const auto add = [&](const Segment& next) {
    if (open.bytes > 0 && open.source_region == next.source_region &&
        open.destination_region == next.destination_region &&
        open.source_offset + open.bytes == next.source_offset &&
        open.destination_offset + open.bytes == next.destination_offset) {
      open.bytes += next.bytes;
      return true;
    }
    if (!flush()) return false;
    open = next;
    return true;
  };
  for (size_t b = 0; b < plan.blocks.size(); b += kBlockWidth) {
    const int32_t* block = plan.blocks.data() + b;
    for (int32_t l = block[2]; l < block[3]; l++) {
      detail::Lane lane = detail::lane_at(plan, static_cast<size_t>(l));
      if (lane.run_bytes == 0) continue;
      if (lane.source_stride == lane.run_bytes && lane.destination_stride == lane.run_bytes) {
        lane.run_bytes *= lane.runs;  // the runs of a page lie side by side: they are one
        lane.runs = lane.runs > 0 ? 1 : 0;
      }
      if (lane.runs == 0) continue;
      const bool pages_touch = lane.runs == 1 && lane.source_page_bytes == lane.run_bytes &&
                               lane.destination_page_bytes == lane.run_bytes;
      for (int32_t g = block[0]; g < block[1]; g++) {
        const int32_t* group = plan.groups.data() + static_cast<size_t>(g) * kGroupWidth;
        const auto count = static_cast<uint64_t>(group[2]);
        if (count == 0) continue;
        Segment segment{static_cast<uint32_t>(lane.source_region),
                        static_cast<uint32_t>(lane.destination_region), 0, 0, lane.run_bytes};
        const uint64_t source =
            lane.source_base + static_cast<uint64_t>(group[0]) * lane.source_page_bytes;
        const uint64_t destination =
            lane.destination_base + static_cast<uint64_t>(group[1]) * lane.destination_page_bytes;
        if (pages_touch) {
          segment.source_offset = source;
          segment.destination_offset = destination;
          segment.bytes = count * lane.run_bytes;
          if (!add(segment)) return;
          continue;
        }
        for (uint64_t p = 0; p < count; p++) {
          for (uint64_t k = 0; k < lane.runs; k++) {
            segment.source_offset = source + p * lane.source_page_bytes + k * lane.source_stride;
            segment.destination_offset =
                destination + p * lane.destination_page_bytes + k * lane.destination_stride;
            if (!add(segment)) return;
          }
        }
      }
    }
  }
  flush();
}

}  // namespace kvx
