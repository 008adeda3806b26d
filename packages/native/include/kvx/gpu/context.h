// The primary context of one GPU: what everything in the process that uses CUDA shares, so that its
// events and streams can wait for ours.
#pragma once

#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <utility>

#include "kvx/gpu/cuda.h"
#include "kvx/gpu/devices.h"

namespace kvx::gpu {

// "cuMemCreate failed: CUDA_ERROR_OUT_OF_MEMORY (2)"
inline std::string failure_text(const Api& api, const char* function, Result result) {
  const char* name = nullptr;
  api.error_name(result, &name);
  return std::string(function) + " failed: " + (name == nullptr ? "an unknown error" : name) +
         " (" + std::to_string(result) + ")";
}

// Errors after which a context does nothing any more: every later call answers the same one.
inline bool is_sticky(Result result) {
  switch (result) {
    case 4:    // deinitialized
    case 214:  // memory error that could not be corrected
    case 220:  // NVLink error that could not be corrected
    case 700:  // illegal address
    case 702:  // launch timeout
    case 709:  // context destroyed
    case 710:  // assertion in a kernel
    case 714:  // hardware stack error
    case 715:  // illegal instruction
    case 716:  // misaligned address
    case 717:  // invalid address space
    case 718:  // invalid program counter
    case 719:  // launch failed
      return true;
    default:
      return false;
  }
}

// Held shared by calls of the driver that take long (mapping, pinning, allocating, loading
// kernels), during which it may let other threads' calls wait. Who must not wait tries to hold it
// alone.
inline std::shared_mutex& slow_calls() {
  static std::shared_mutex mutex;
  return mutex;
}

class Context {
 public:
  // Retains the primary context: 0.1 s and half a GiB of the GPU where the process has none yet.
  // Throws DriverError("ERR_KVX_BACKEND_UNAVAILABLE").
  static std::shared_ptr<Context> open(int ordinal) {
    return std::shared_ptr<Context>(new Context(cuda(), ordinal));
  }
  ~Context() { api_.context_release(device_); }
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  const Api& api() const { return api_; }
  int ordinal() const { return ordinal_; }
  const Uuid& uuid() const { return uuid_; }
  Location location() const { return {.type = 1, .ordinal = ordinal_}; }

  // Makes the context that of the calling thread for its lifetime.
  class Current {
   public:
    explicit Current(const Context& context) : api_(context.api_) {
      api_.context_push(context.handle_);
    }
    ~Current() {
      ContextHandle popped = nullptr;
      api_.context_pop(&popped);
    }
    Current(const Current&) = delete;
    Current& operator=(const Current&) = delete;

   private:
    const Api& api_;
  };

  // Current, for calls that take long.
  class Slow {
   public:
    explicit Slow(const Context& context) : current_(context) {}

   private:
    const std::shared_lock<std::shared_mutex> held_{slow_calls()};
    const Current current_;
  };

  // Throws DriverError(code) with the function's name when the result is no success.
  void check(Result result, const char* function, const char* code) {
    if (result != kOk) throw DriverError(code, failed(function, result));
  }
  // The text of a failure, which is remembered when the context cannot recover from it.
  std::string failed(const char* function, Result result) {
    if (is_sticky(result)) return fail(function, result);
    return failure_text(api_, function, result);
  }
  // Gives the context up, and answers the first reason why.
  std::string fail(const char* function, Result result) {
    const std::lock_guard lock(mutex_);
    if (broken_.empty()) {
      broken_ = failure_text(api_, function, result) + ". The CUDA context of GPU " +
                std::to_string(ordinal_) +
                " in this process is unusable from now on, for kvx and for the host alike; only a "
                "new process gets another";
    }
    return broken_;
  }
  // Why nothing can be done with the context any more, or empty.
  std::string broken() const {
    const std::lock_guard lock(mutex_);
    return broken_;
  }

 private:
  Context(const Api& api, int ordinal)
      : api_(api), ordinal_(ordinal), uuid_(uuid_of(api, ordinal)) {
    const std::shared_lock slow(slow_calls());
    api_.device_get(&device_, ordinal);
    if (const Result result = api_.context_retain(&handle_, device_); result != kOk) {
      throw DriverError("ERR_KVX_BACKEND_UNAVAILABLE",
                        failure_text(api_, "cuDevicePrimaryCtxRetain", result) + " on GPU " +
                            std::to_string(ordinal) + ".");
    }
  }

  const Api& api_;
  const int ordinal_;
  const Uuid uuid_;
  DeviceHandle device_ = 0;
  ContextHandle handle_ = nullptr;
  mutable std::mutex mutex_;
  std::string broken_;
};

}  // namespace kvx::gpu
