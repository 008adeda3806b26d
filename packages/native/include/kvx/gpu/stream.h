// A stream of one context, and memory and events that live as long as work on it.
#pragma once

#include <chrono>
#include <memory>
#include <thread>
#include <utility>

#include "kvx/gpu/context.h"

namespace kvx::gpu {

namespace detail {

// Owns an event. Made and destroyed with the context current.
class Event {
 public:
  explicit Event(Context& context, const char* code) : context_(&context) {
    constexpr unsigned kWithoutTimes = 2;
    context.check(context.api().event_create(&handle_, kWithoutTimes), "cuEventCreate", code);
  }
  ~Event() {
    if (handle_ != nullptr) context_->api().event_destroy(handle_);
  }
  Event(Event&& other) noexcept
      : context_(other.context_), handle_(std::exchange(other.handle_, nullptr)) {}
  Event& operator=(Event&& other) noexcept {
    std::swap(context_, other.context_);
    std::swap(handle_, other.handle_);
    return *this;
  }

  EventHandle get() const { return handle_; }

 private:
  Context* context_;
  EventHandle handle_ = nullptr;
};

// Owns a stream that does not wait for the default stream.
class Stream {
 public:
  explicit Stream(Context& context, const char* code) : context_(context) {
    constexpr unsigned kNonBlocking = 1;
    context.check(context.api().stream_create(&handle_, kNonBlocking), "cuStreamCreate", code);
  }
  ~Stream() { context_.api().stream_destroy(handle_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  StreamHandle get() const { return handle_; }

  // Sleeps until all work that was put on it has ended; answers the stream's error. Ends early with
  // kNotReady when `give_up` answers true.
  template <typename GiveUp>
  Result wait(GiveUp give_up) const {
    for (;;) {
      const Result result = context_.api().stream_query(handle_);
      if (result != kNotReady || give_up()) return result;
      std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
  }

 private:
  Context& context_;
  StreamHandle handle_ = nullptr;
};

// Memory of the GPU that nobody else sees.
class Scratch {
 public:
  Scratch(Context& context, size_t bytes, const char* code) : context_(context) {
    context.check(context.api().memory_allocate(&address_, bytes), "cuMemAlloc", code);
  }
  ~Scratch() { context_.api().memory_free(address_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  Address address() const { return address_; }

 private:
  Context& context_;
  Address address_ = 0;
};

// Pinned memory of the host that kernels read.
class PinnedBuffer {
 public:
  PinnedBuffer(Context& context, size_t bytes, const char* code) : context_(context) {
    constexpr unsigned kMapped = 2;
    context.check(context.api().host_allocate(&data_, bytes, kMapped), "cuMemHostAlloc", code);
    const Result result = context.api().host_device_pointer(&address_, data_, 0);
    if (result == kOk) return;
    context.api().host_free(data_);
    context.check(result, "cuMemHostGetDevicePointer", code);
  }
  ~PinnedBuffer() { context_.api().host_free(data_); }
  PinnedBuffer(const PinnedBuffer&) = delete;
  PinnedBuffer& operator=(const PinnedBuffer&) = delete;

  uint8_t* data() const { return static_cast<uint8_t*>(data_); }
  Address address() const { return address_; }

 private:
  Context& context_;
  void* data_ = nullptr;
  Address address_ = 0;
};

}  // namespace detail

}  // namespace kvx::gpu
