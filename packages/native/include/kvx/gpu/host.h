// Memory of this process, made reachable for the GPUs: pinned, and mapped into their addresses.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "kvx/gpu/context.h"

namespace kvx::gpu {

namespace detail {

// The page ranges that kvx has pinned in this process. CUDA refuses to pin a page twice, and
// regions may lie side by side in one.
class Pinned {
 public:
  using Begin = uintptr_t;

  static Pinned& here() {
    static auto& pinned = *new Pinned;
    return pinned;
  }

  // Pins what is not yet pinned of [begin, end), both at page borders, and answers what to give
  // back. A page that the host has pinned itself stays its own.
  std::vector<Begin> take(Context& context, Begin begin, Begin end) {
    const std::lock_guard lock(mutex_);
    std::vector<Begin> held;
    try {
      while (begin < end) {
        auto next = ranges_.upper_bound(begin);
        if (next != ranges_.begin()) {
          const auto before = std::prev(next);
          if (before->second.end > begin) {
            before->second.users++;
            held.push_back(before->first);
            begin = before->second.end;
            continue;
          }
        }
        const Begin until = next == ranges_.end() ? end : std::min(end, next->first);
        if (pin(context, begin, until)) {
          ranges_[begin] = {until, 1};
          held.push_back(begin);
        }
        begin = until;
      }
    } catch (...) {
      give_back_locked(context, held);
      throw;
    }
    return held;
  }

  void give_back(Context& context, const std::vector<Begin>& held) {
    const std::lock_guard lock(mutex_);
    give_back_locked(context, held);
  }

 private:
  struct Range {
    Begin end;
    size_t users;
  };

  static bool pin(Context& context, Begin begin, Begin end) {
    constexpr unsigned kForEveryContextAndMapped = 3;
    const Result result = context.api().host_register(reinterpret_cast<void*>(begin), end - begin,
                                                      kForEveryContextAndMapped);
    if (result == kHostMemoryRegistered) return false;
    context.check(result, "cuMemHostRegister", "ERR_KVX_MEMORY");
    return true;
  }

  void give_back_locked(Context& context, const std::vector<Begin>& held) {
    for (const Begin begin : held) {
      const auto range = ranges_.find(begin);
      if (--range->second.users > 0) continue;
      context.api().host_unregister(reinterpret_cast<void*>(begin));
      ranges_.erase(range);
    }
  }

  std::mutex mutex_;  // guards what follows
  std::map<Begin, Range> ranges_;
};

}  // namespace detail

// A range of host memory that a GPU reads and writes while this lives. Ranges that overlap share
// the pages that they have in common.
class HostMemory {
 public:
  // Takes half a second per GiB the first time that a process pins it, and needs room under
  // RLIMIT_MEMLOCK where the driver asks for it. Memory that the host itself has pinned
  // (cudaHostAlloc, cudaHostRegister) is used as it is. Throws DriverError("ERR_KVX_MEMORY").
  HostMemory(std::shared_ptr<Context> context, void* begin, uint64_t bytes)
      : context_(std::move(context)) {
    const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    const auto first = reinterpret_cast<uintptr_t>(begin);
    const uintptr_t from = first / page * page;
    const uintptr_t until = (first + bytes + page - 1) / page * page;
    const Context::Slow current(*context_);
    held_ = detail::Pinned::here().take(*context_, from, until);
    try {
      constexpr const char* kFunction = "cuMemHostGetDevicePointer";
      constexpr const char* kCode = "ERR_KVX_MEMORY";
      const Api& api = context_->api();
      Address last = 0;
      context_->check(api.host_device_pointer(&address_, begin, 0), kFunction, kCode);
      context_->check(api.host_device_pointer(&last, reinterpret_cast<void*>(first + bytes - 1), 0),
                      kFunction, kCode);
      if (last != address_ + bytes - 1) {
        throw DriverError(
            kCode,
            "The host memory was pinned in pieces, and the GPU does not see them side "
            "by side. Pin the whole range at once, or leave that to kvx.");
      }
    } catch (...) {
      detail::Pinned::here().give_back(*context_, held_);
      throw;
    }
  }
  ~HostMemory() {
    const Context::Slow current(*context_);
    detail::Pinned::here().give_back(*context_, held_);
  }
  HostMemory(const HostMemory&) = delete;
  HostMemory& operator=(const HostMemory&) = delete;

  // Where a kernel of the context's GPU finds `begin`.
  Address address() const { return address_; }

 private:
  const std::shared_ptr<Context> context_;
  std::vector<detail::Pinned::Begin> held_;
  Address address_ = 0;
};

}  // namespace kvx::gpu
