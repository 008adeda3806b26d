// Memory that is registered here, as it is read from.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>

#include "gpus.h"
#include "kvx/driver.h"
#include "kvx/gpu.h"

namespace kvx::shm {

class Source {
 public:
  explicit Source(const Memory& memory)
      : address_(memory.address),
        bytes_(memory.bytes),
        gpu_(memory.kind == MemoryKind::kCuda ? memory.device : gpu::Place::kHost) {}

  // The ordinal of its GPU, or gpu::Place::kHost.
  int gpu() const { return gpu_; }
  // Of memory of the host.
  const uint8_t* data() const { return reinterpret_cast<const uint8_t*>(address_); }

  // Of memory of a GPU.
  gpu::Place on_gpu() const { return {address_, gpu_}; }

  // As a GPU reads it. Memory of the host is pinned the first time: half a second per GiB. Any
  // thread. Throws DriverError.
  gpu::Place place(const std::shared_ptr<gpu::Context>& context) {
    if (gpu_ != gpu::Place::kHost) return on_gpu();
    const std::lock_guard lock(mutex_);
    auto& pinned = pinned_[context->ordinal()];
    if (!pinned) {
      pinned =
          std::make_unique<gpu::HostMemory>(context, reinterpret_cast<void*>(address_), bytes_);
    }
    return {pinned->address(), gpu::Place::kHost};
  }

 private:
  const uint64_t address_, bytes_;
  const int gpu_;
  std::mutex mutex_;                                        // guards what follows
  std::map<int, std::unique_ptr<gpu::HostMemory>> pinned_;  // by the ordinal of who reads it
};

}  // namespace kvx::shm
