// Memory at both ends of every path of this machine, and plans between them, for what measures.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <numeric>
#include <random>

#include "device_memory.h"

struct Ends {
  const char* name;
  gpu::Path path;
  gpu::Address from, to;
  uint64_t bytes;  // of each end
};

// GPU 0 copies. A peer's memory is reached through the access that cuMemSetAccess gives.
class Pools {
 public:
  Pools(uint64_t gpu_bytes, uint64_t host_bytes)
      : context_(gpu::Context::open(0)),
        source_(context_, gpu_bytes),
        target_(context_, gpu_bytes),
        host_bytes_(host_bytes) {
    if (two_gpus()) {
      const auto other = gpu::Context::open(1);
      there_ = std::make_unique<gpu::Allocation>(other, gpu_bytes);
      const gpu::Context::Current current(*other);
      const gpu::Access access{.location = context_->location()};
      const uint64_t step = uint64_t{2} << 20;
      must(other->api().set_access(there_->address(), (gpu_bytes + step - 1) / step * step, &access,
                                   1));
    }
    at_ = mmap(nullptr, host_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (at_ == MAP_FAILED) throw std::runtime_error("no host memory");
    host_ = std::make_unique<gpu::HostMemory>(context_, at_, host_bytes);
  }
  ~Pools() {
    host_.reset();
    munmap(at_, host_bytes_);
  }
  Pools(const Pools&) = delete;
  Pools& operator=(const Pools&) = delete;

  const std::shared_ptr<gpu::Context>& context() const { return context_; }

  std::vector<Ends> paths() const {
    using enum gpu::Path;
    const uint64_t bytes = source_.bytes();
    std::vector<Ends> all{{"same GPU", kSameGpu, source_.address(), target_.address(), bytes}};
    if (there_ != nullptr) {
      all.push_back({"peer", kPeer, source_.address(), there_->address(), bytes});
    }
    const uint64_t both = std::min(bytes, host_bytes_);
    all.push_back({"to host", kToHost, source_.address(), host_->address(), both});
    all.push_back({"from host", kFromHost, host_->address(), target_.address(), both});
    return all;
  }

 private:
  const std::shared_ptr<gpu::Context> context_;
  const gpu::Allocation source_, target_;
  std::unique_ptr<gpu::Allocation> there_;
  const uint64_t host_bytes_;
  void* at_;
  std::unique_ptr<gpu::HostMemory> host_;
};

// Chunks of `total` bytes until all of the ends has been copied once: 64 lanes, each a region of
// its own, and pages of one run in random order on both sides.
inline std::vector<gpu::Batch> scattered(const Ends& ends, uint64_t total, uint64_t run) {
  constexpr uint64_t kLanes = 64;
  const uint64_t region = ends.bytes / kLanes, pages = total / kLanes / run;
  if (pages == 0) throw std::runtime_error("a chunk has less than one run in each lane");
  std::mt19937 random(7);
  std::vector<uint32_t> left(region / run), right(region / run);
  std::iota(left.begin(), left.end(), 0);
  std::iota(right.begin(), right.end(), 0);
  std::shuffle(left.begin(), left.end(), random);
  std::shuffle(right.begin(), right.end(), random);
  std::vector<gpu::Batch> chunks;
  for (uint64_t first = 0; first + pages <= left.size(); first += pages) {
    gpu::Section section{.shape = {.path = ends.path,
                                   .run_bytes = run,
                                   .source_page_bytes = run,
                                   .destination_page_bytes = run},
                         .lanes = {},
                         .pages = {}};
    for (uint64_t lane = 0; lane < kLanes; lane++) {
      section.lanes.push_back({ends.from + lane * region, ends.to + lane * region});
    }
    for (uint64_t page = first; page < first + pages; page++) {
      section.pages.push_back({left[page], right[page]});
    }
    chunks.push_back({section});
  }
  return chunks;
}
