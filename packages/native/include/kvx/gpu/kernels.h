// The kernels on one GPU: PTX text, which the driver compiles for the GPU it finds and keeps in a
// cache of its own (~/.nv/ComputeCache).
#pragma once

#include <memory>
#include <string>

#include "kvx/gpu/context.h"

namespace kvx::gpu {

namespace detail {

inline constexpr const char kPtx[] =
#include "kvx/gpu/kernels/kvx.ptx"
    ;

}  // namespace detail

class Kernels {
 public:
  // Throws DriverError("ERR_KVX_BACKEND_UNAVAILABLE").
  explicit Kernels(std::shared_ptr<Context> context) : context_(std::move(context)) {
    const Context::Slow current(*context_);
    const Api& api = context_->api();
    constexpr const char* kCode = "ERR_KVX_BACKEND_UNAVAILABLE";
    char log[1024] = {};
    int options[] = {5, 6};  // where errors are written, and how many bytes fit
    void* values[] = {log, reinterpret_cast<void*>(sizeof log)};
    const Result result = api.module_load(&module_, detail::kPtx, 2, options, values);
    if (result != kOk) {
      throw DriverError(kCode, context_->failed("cuModuleLoadDataEx", result) + ". " + log);
    }
    for (const auto& [function, name] : {std::pair{&copy_16, "kvx_copy_16"},
                                         {&copy_8, "kvx_copy_8"},
                                         {&copy_4, "kvx_copy_4"},
                                         {&copy_1, "kvx_copy_1"},
                                         {&digest, "kvx_digest"}}) {
      const Result found = api.module_function(function, module_, name);
      if (found == kOk) continue;
      api.module_unload(module_);
      throw DriverError(kCode, context_->failed("cuModuleGetFunction", found) + ".");
    }
  }
  ~Kernels() {
    const Context::Slow current(*context_);
    context_->api().module_unload(module_);
  }
  Kernels(const Kernels&) = delete;
  Kernels& operator=(const Kernels&) = delete;

  // By the bytes of a word.
  FunctionHandle copy(unsigned word) const {
    return word == 16 ? copy_16 : word == 8 ? copy_8 : word == 4 ? copy_4 : copy_1;
  }

  FunctionHandle copy_16 = nullptr, copy_8 = nullptr, copy_4 = nullptr, copy_1 = nullptr;
  FunctionHandle digest = nullptr;

 private:
  const std::shared_ptr<Context> context_;
  ModuleHandle module_ = nullptr;
};

}  // namespace kvx::gpu
