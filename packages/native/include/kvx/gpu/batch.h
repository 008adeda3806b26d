// What is copied, with addresses of this process, in the form that the kernel reads. Pure.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
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
  int gpu = kHost;  // any number that is equal for equal GPUs; of this process the ordinal
};

// Two bases that equal pages are counted from.
struct LanePair {
  Address source, destination;
};
// The first page of each side is 0.
struct PagePair {
  uint32_t source, destination;
};

// Lanes of one shape, and the pages that each of them copies. For every lane, pair of pages and run
// r < runs:
//   copy run_bytes from lane.source + page.source * source_page_bytes + r * source_stride
//                  to lane.destination + page.destination * destination_page_bytes +
//                  r * destination_stride
struct Section {
  Path path = Path::kSameGpu;
  uint64_t run_bytes = 0, runs = 1;
  uint64_t source_stride = 0, destination_stride = 0;
  uint64_t source_page_bytes = 0, destination_page_bytes = 0;
  std::vector<LanePair> lanes;
  std::vector<PagePair> pages;

  uint64_t bytes() const { return run_bytes * runs * lanes.size() * pages.size(); }
};

struct Batch {
  std::vector<Section> sections;
};

using Resolve = std::function<Place(uint32_t region)>;

// Of a plan that check_plan has passed. `gpu` is the one that copies.
Batch batch_of(const Plan& plan, const Resolve& source, const Resolve& destination, int gpu);

// Of segments that were checked against their regions.
Batch batch_of(std::span<const Segment> segments, const Resolve& source, const Resolve& destination,
               int gpu);

}  // namespace kvx::gpu
