// Memory of this process, made reachable for the GPUs: pinned, and mapped into their addresses.
#pragma once

#include <memory>

#include "kvx/gpu/context.h"

namespace kvx::gpu {

// A range of host memory that a GPU reads and writes while this lives. Ranges that overlap share
// the pages that they have in common.
class HostMemory {
 public:
  // Takes half a second per GiB the first time that a process pins it, and needs room under
  // RLIMIT_MEMLOCK where the driver asks for it. Memory that the host itself has pinned
  // (cudaHostAlloc, cudaHostRegister) is used as it is. Throws DriverError("ERR_KVX_MEMORY").
  HostMemory(std::shared_ptr<Context> context, void* begin, uint64_t bytes);
  ~HostMemory();
  HostMemory(const HostMemory&) = delete;
  HostMemory& operator=(const HostMemory&) = delete;

  // Where a kernel of the context's GPU finds `begin`.
  Address address() const { return address_; }

 private:
  std::shared_ptr<Context> context_;
  void* registered_ = nullptr;
  Address address_ = 0;
};

}  // namespace kvx::gpu
