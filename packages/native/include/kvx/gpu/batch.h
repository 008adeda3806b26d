// What is copied, with addresses of this process, in the form that the kernel reads. Pure.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <numeric>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "kvx/driver.h"
#include "kvx/gpu/api.h"
#include "kvx/plan.h"

namespace kvx::gpu {

// Which way bytes go, seen from the GPU that copies.
enum class Path : uint8_t { kPeer, kSameGpu, kToHost, kFromHost };
inline constexpr size_t kPaths = 4;

// Where a region lies: its first byte as the GPU that copies sees it, and whose memory it is.
struct Place {
  static constexpr int kHost = -1;

  Address address = 0;
  int gpu = kHost;  // any number that is equal for equal GPUs; of GPUs of this process the ordinal
};

// `gpu` is the one that copies. From host to host is from the host.
inline Path path_of(const Place& source, const Place& destination, int gpu) {
  if (source.gpu == Place::kHost) return Path::kFromHost;
  if (destination.gpu == Place::kHost) return Path::kToHost;
  return source.gpu == gpu && destination.gpu == gpu ? Path::kSameGpu : Path::kPeer;
}

// Two bases that pages are counted from.
struct LanePair {
  Address source, destination;

  bool operator==(const LanePair&) const = default;
};
struct PagePair {
  uint32_t source, destination;

  auto operator<=>(const PagePair&) const = default;
};

// What lanes need to have in common to be one section.
struct Shape {
  Path path = Path::kSameGpu;
  uint64_t run_bytes = 0, runs = 1;
  uint64_t source_stride = 0, destination_stride = 0;  // between the runs of a page
  uint64_t source_page_bytes = 0, destination_page_bytes = 0;

  auto operator<=>(const Shape&) const = default;
};

// Lanes of one shape, and the pages that each of them copies. For every lane, pair of pages and run
// r < runs:
//   copy run_bytes from lane.source + page.source * source_page_bytes + r * source_stride
//                  to lane.destination + page.destination * destination_page_bytes +
//                  r * destination_stride
struct Section {
  Shape shape;
  std::vector<LanePair> lanes;
  std::vector<PagePair> pages;
};

using Batch = std::vector<Section>;

inline uint64_t bytes_of(const Section& section) {
  return section.shape.run_bytes * section.shape.runs * section.lanes.size() * section.pages.size();
}

// Contiguous pieces.
inline uint64_t runs_of(const Batch& batch) {
  uint64_t runs = 0;
  for (const Section& section : batch) {
    runs += section.shape.runs * section.lanes.size() * section.pages.size();
  }
  return runs;
}

// About how long the copy takes when nothing else runs: docs/engines/cuda.md has the bandwidths.
inline std::chrono::microseconds expected_time(const Batch& batch) {
  constexpr std::array<uint64_t, kPaths> kBytesPerMicrosecond = {350'000, 750'000, 52'000, 51'000};
  std::array<uint64_t, kPaths> bytes{};  // paths run side by side
  for (const Section& section : batch) {
    bytes[static_cast<size_t>(section.shape.path)] += bytes_of(section);
  }
  uint64_t longest = 0;
  for (size_t path = 0; path < kPaths; path++) {
    longest = std::max(longest, bytes[path] / kBytesPerMicrosecond[path]);
  }
  return std::chrono::microseconds(longest);
}

using Resolve = std::function<Place(uint32_t region)>;

// Of a plan that check_plan has passed. `gpu` is the one that copies.
inline Batch batch_of(const Plan& plan, const Resolve& source, const Resolve& destination,
                      int gpu) {
  Batch batch;
  for (size_t b = 0; b < plan.blocks.size(); b += kBlockWidth) {
    const int32_t* block = plan.blocks.data() + b;
    std::vector<PagePair> pages;
    for (int32_t g = block[0]; g < block[1]; g++) {
      const int32_t* group = plan.groups.data() + static_cast<size_t>(g) * kGroupWidth;
      const auto first = static_cast<uint32_t>(group[0]), second = static_cast<uint32_t>(group[1]);
      for (uint32_t p = 0; p < static_cast<uint32_t>(group[2]); p++) {
        pages.push_back({first + p, second + p});
      }
    }
    if (pages.empty()) continue;
    std::map<Shape, std::vector<LanePair>> shapes;
    // Lanes that follow each other are mostly of one shape and in the same regions.
    auto last = shapes.end();
    std::optional<std::pair<uint64_t, uint64_t>> regions;
    Place from, to;
    for (int32_t l = block[2]; l < block[3]; l++) {
      const auto lane = kvx::detail::lane_at(plan, static_cast<size_t>(l));
      if (lane.run_bytes == 0 || lane.runs == 0) continue;
      if (const std::pair both{lane.source_region, lane.destination_region}; regions != both) {
        from = source(static_cast<uint32_t>(lane.source_region));
        to = destination(static_cast<uint32_t>(lane.destination_region));
        regions = both;
      }
      Shape shape{path_of(from, to, gpu),     lane.run_bytes,          lane.runs,
                  lane.source_stride,         lane.destination_stride, lane.source_page_bytes,
                  lane.destination_page_bytes};
      if (shape.runs == 1 ||
          (shape.source_stride == shape.run_bytes && shape.destination_stride == shape.run_bytes)) {
        shape.run_bytes *= shape.runs;  // the runs of a page lie side by side: they are one
        shape.runs = 1;
        shape.source_stride = shape.destination_stride = 0;
      }
      if (last == shapes.end() || last->first != shape) last = shapes.try_emplace(shape).first;
      last->second.push_back({from.address + lane.source_base, to.address + lane.destination_base});
    }
    for (auto& [shape, lanes] : shapes) batch.push_back({shape, std::move(lanes), pages});
  }
  return batch;
}

// Of segments that were checked against their regions: each is a lane of one page. Neighbours that
// an expanded plan has merged differ in length; where there are many lengths, all are cut to what
// divides them.
inline Batch batch_of(std::span<const Segment> segments, const Resolve& source,
                      const Resolve& destination, int gpu) {
  constexpr uint64_t kLongest = uint64_t{1} << 30;
  constexpr uint64_t kShortestCut = 4096;
  constexpr size_t kManyLengths = 16;
  std::map<Shape, std::vector<LanePair>> shapes;
  for (const Segment& segment : segments) {
    const Place from = source(segment.source_region), to = destination(segment.destination_region);
    Shape shape{.path = path_of(from, to, gpu)};
    for (uint64_t done = 0; done < segment.bytes; done += shape.run_bytes) {
      shape.run_bytes = std::min(kLongest, segment.bytes - done);
      shapes[shape].push_back({from.address + segment.source_offset + done,
                               to.address + segment.destination_offset + done});
    }
  }
  if (shapes.size() > kManyLengths) {
    std::map<Path, uint64_t> divisors;
    for (const auto& [shape, lanes] : shapes) {
      divisors[shape.path] = std::gcd(divisors[shape.path], shape.run_bytes);
    }
    std::map<Shape, std::vector<LanePair>> cut;
    for (auto& [shape, lanes] : shapes) {
      const uint64_t divisor = divisors[shape.path];
      if (divisor < kShortestCut) {
        cut[shape] = std::move(lanes);
        continue;
      }
      Shape piece = shape;
      piece.run_bytes = divisor;
      auto& pieces = cut[piece];
      for (const LanePair& lane : lanes) {
        for (uint64_t at = 0; at < shape.run_bytes; at += divisor) {
          pieces.push_back({lane.source + at, lane.destination + at});
        }
      }
    }
    shapes = std::move(cut);
  }
  Batch batch;
  for (auto& [shape, lanes] : shapes) batch.push_back({shape, std::move(lanes), {{0, 0}}});
  return batch;
}

}  // namespace kvx::gpu
