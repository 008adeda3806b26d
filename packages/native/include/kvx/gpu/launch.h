// A Batch as launches of the copy kernel. Pure; kernels/kvx.cu has the same structs.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kvx/driver.h"
#include "kvx/gpu/batch.h"

namespace kvx::gpu::detail {

inline constexpr unsigned kWordsPerUnit = 256;  // what a warp moves at a time
inline constexpr size_t kMostSections = 16;
inline constexpr size_t kMostTableBytes = 1 << 20;
inline constexpr uint64_t kMostUnits = uint64_t{1} << 31;

// Counts are in words.
struct SectionOnGpu {
  uint64_t source_page_bytes, destination_page_bytes, source_stride, destination_stride;
  uint32_t first_unit, units_per_lane, words_per_lane, run_words, runs, first_lane;
  uint64_t first_page;
};
struct LaunchOnGpu {
  SectionOnGpu sections[kMostSections];
  uint32_t sections_used, units;
  Address lanes, pages;
};
static_assert(sizeof(SectionOnGpu) == 64 && sizeof(LaunchOnGpu) == 1048);
static_assert(sizeof(LanePair) == 16 && sizeof(PagePair) == 8);

// A part of a section: what one launch takes of it.
struct Slice {
  const Shape* shape;
  std::span<const LanePair> lanes;
  std::span<const PagePair> pages;

  size_t table_bytes() const { return lanes.size_bytes() + pages.size_bytes(); }
};

struct Launch {
  Path path;
  unsigned word;  // bytes that every address and length is a multiple of: 16, 8, 4 or 1
  uint32_t units = 0;
  size_t table_bytes = 0;
  std::vector<Slice> slices;
};

inline unsigned word_of(const Section& section) {
  const Shape& shape = section.shape;
  uint64_t bits = shape.run_bytes | shape.source_page_bytes | shape.destination_page_bytes |
                  shape.source_stride | shape.destination_stride;
  for (const LanePair& lane : section.lanes) bits |= lane.source | lane.destination;
  return bits % 16 == 0 ? 16 : bits % 8 == 0 ? 8 : bits % 4 == 0 ? 4 : 1;
}

// Cuts until the tables have room and the kernel's counts fit into 32 bits.
inline void cut(const Slice& slice, unsigned word, std::vector<Slice>& out) {
  const uint64_t page_words = slice.shape->run_bytes / word * slice.shape->runs;
  const uint64_t lane_words = page_words * slice.pages.size();
  const auto half = [](auto span) {
    return std::pair{span.first(span.size() / 2), span.subspan(span.size() / 2)};
  };
  if (slice.pages.size() > 1 &&
      (lane_words > kMostUnits || slice.pages.size_bytes() > kMostTableBytes / 2)) {
    const auto [first, second] = half(slice.pages);
    cut({slice.shape, slice.lanes, first}, word, out);
    cut({slice.shape, slice.lanes, second}, word, out);
    return;
  }
  const uint64_t units = (lane_words + kWordsPerUnit - 1) / kWordsPerUnit;
  if (slice.lanes.size() > 1 &&
      (units * slice.lanes.size() > kMostUnits || slice.lanes.size_bytes() > kMostTableBytes / 2)) {
    const auto [first, second] = half(slice.lanes);
    cut({slice.shape, first, slice.pages}, word, out);
    cut({slice.shape, second, slice.pages}, word, out);
    return;
  }
  if (lane_words > kMostUnits) {
    throw DriverError("ERR_KVX_TRANSFER_FAILED", "A page of " + std::to_string(page_words * word) +
                                                     " bytes in one lane that is "
                                                     "aligned to " +
                                                     std::to_string(word) +
                                                     " bytes is more than a kernel copies.");
  }
  out.push_back(slice);
}

inline uint32_t units_of(const Slice& slice, unsigned word) {
  const uint64_t words = slice.shape->run_bytes / word * slice.shape->runs * slice.pages.size();
  return static_cast<uint32_t>((words + kWordsPerUnit - 1) / kWordsPerUnit * slice.lanes.size());
}

// The launches that copy a batch, which must outlive them. Throws DriverError.
inline std::vector<Launch> launches_of(const Batch& batch) {
  std::vector<Launch> launches;
  for (const Section& section : batch) {
    const unsigned word = word_of(section);
    std::vector<Slice> slices;
    cut({&section.shape, section.lanes, section.pages}, word, slices);
    for (const Slice& slice : slices) {
      const uint32_t units = units_of(slice, word);
      const auto fits = [&](const Launch& launch) {
        return launch.path == section.shape.path && launch.word == word &&
               launch.slices.size() < kMostSections &&
               launch.table_bytes + slice.table_bytes() <= kMostTableBytes &&
               uint64_t{launch.units} + units <= kMostUnits;
      };
      auto found = std::find_if(launches.begin(), launches.end(), fits);
      if (found == launches.end()) {
        found = launches.insert(found, {.path = section.shape.path, .word = word, .slices = {}});
      }
      found->units += units;
      found->table_bytes += slice.table_bytes();
      found->slices.push_back(slice);
    }
  }
  return launches;
}

// Writes the tables of a launch to `room`, which the GPU sees at `address`: lanes, then pages.
inline LaunchOnGpu write_launch(const Launch& launch, uint8_t* room, Address address) {
  LaunchOnGpu out{};
  size_t lanes = 0, pages = 0, all_lanes = 0;
  for (const Slice& slice : launch.slices) all_lanes += slice.lanes.size();
  auto* lane_table = reinterpret_cast<LanePair*>(room);
  auto* page_table = reinterpret_cast<PagePair*>(lane_table + all_lanes);
  for (const Slice& slice : launch.slices) {
    const Shape& shape = *slice.shape;
    const uint32_t units = units_of(slice, launch.word);
    out.sections[out.sections_used++] = {
        .source_page_bytes = shape.source_page_bytes,
        .destination_page_bytes = shape.destination_page_bytes,
        .source_stride = shape.source_stride,
        .destination_stride = shape.destination_stride,
        .first_unit = out.units,
        .units_per_lane = static_cast<uint32_t>(units / slice.lanes.size()),
        .words_per_lane =
            static_cast<uint32_t>(shape.run_bytes / launch.word * shape.runs * slice.pages.size()),
        .run_words = static_cast<uint32_t>(shape.run_bytes / launch.word),
        .runs = static_cast<uint32_t>(shape.runs),
        .first_lane = static_cast<uint32_t>(lanes),
        .first_page = pages};
    std::copy(slice.lanes.begin(), slice.lanes.end(), lane_table + lanes);
    std::copy(slice.pages.begin(), slice.pages.end(), page_table + pages);
    lanes += slice.lanes.size();
    pages += slice.pages.size();
    out.units += units;
  }
  out.lanes = address;
  out.pages = address + all_lanes * sizeof(LanePair);
  return out;
}

}  // namespace kvx::gpu::detail
