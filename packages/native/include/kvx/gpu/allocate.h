// GPU memory of kvx: made so that another process can map it by a file descriptor.
#pragma once

#include <memory>
#include <utility>

#include "kvx/gpu/context.h"
#include "kvx/gpu/import.h"
#include "kvx/gpu/stream.h"

namespace kvx::gpu {

class Allocation {
 public:
  // Zeroed. Blocks for some milliseconds. Takes the granularity of the GPU (2 MiB) as a multiple.
  // Throws DriverError("ERR_KVX_MEMORY").
  Allocation(std::shared_ptr<Context> context, uint64_t bytes)
      : context_(std::move(context)), bytes_(bytes) {
    constexpr const char* kCode = "ERR_KVX_MEMORY";
    const Context::Slow current(*context_);
    const Api& api = context_->api();
    const AllocationProperties properties{.location = context_->location()};
    size_t step = 0;
    context_->check(api.granularity(&step, &properties, 0), "cuMemGetAllocationGranularity", kCode);
    const uint64_t rounded = (bytes + step - 1) / step * step;
    AllocationHandle handle = 0;
    context_->check(api.create(&handle, rounded, &properties, 0), "cuMemCreate", kCode);
    const struct Release {
      const Api& api;
      AllocationHandle handle;
      ~Release() { api.release(handle); }
    } release{api, handle};
    auto reservation = std::make_unique<detail::Reservation>(*context_, rounded, kCode);
    reservation->map(0, rounded, handle, kCode);
    reservation_ = std::move(reservation);
    // What another process left there must not show through.
    const detail::Stream stream(*context_, kCode);
    context_->check(api.set_async(reservation_->address(), 0, rounded, stream.get()),
                    "cuMemsetD8Async", kCode);
    context_->check(stream.wait([] { return false; }), "cuMemsetD8Async", kCode);
  }
  ~Allocation() {
    const Context::Slow current(*context_);
    reservation_.reset();
  }
  Allocation(const Allocation&) = delete;
  Allocation& operator=(const Allocation&) = delete;

  Address address() const { return reservation_->address(); }
  uint64_t bytes() const { return bytes_; }
  Context& context() const { return *context_; }

 private:
  std::shared_ptr<Context> context_;
  const uint64_t bytes_;
  std::unique_ptr<detail::Reservation> reservation_;
};

}  // namespace kvx::gpu
