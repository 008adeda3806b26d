#include "adopt_gpu.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "kvx/gpu/context.h"
#include "kvx/gpu/export.h"
#include "kvx/gpu/import.h"
#include "kvx/handle.h"
#include "task.h"

namespace kvx {

namespace {

constexpr size_t kHandleBytes = 64;

// Mapped for as long as it lives.
struct AdoptedGpu {
  static constexpr uint64_t kTypeTag = 0x6b76782d67707532;
  static constexpr const char* kTypeName = "GPU memory of another process";
  std::shared_ptr<gpu::Imported> imported;
};

struct Request {
  int ordinal = 0;
  std::array<uint8_t, kHandleBytes> handle{};
  uint64_t offset = 0, bytes = 0;
};

std::shared_ptr<AdoptedGpu> adopt(const Request& request) {
  const auto context = gpu::Context::open(request.ordinal);
  const gpu::Shared shared =
      gpu::share_handle(context->uuid(), request.handle, request.offset, request.bytes);
  return std::make_shared<AdoptedGpu>(AdoptedGpu{gpu::Importer(context).map(shared)});
}

// (ordinal, handle of 64 bytes, offset, bytes) -> Promise<{ address, handle }>; TypeScript has
// checked them.
Napi::Value adopt_gpu(const Napi::CallbackInfo& info) {
  Request request;
  request.ordinal = info[0].As<Napi::Number>().Int32Value();
  const auto handle = info[1].As<Napi::Uint8Array>();
  std::copy_n(handle.Data(), kHandleBytes, request.handle.begin());
  request.offset = static_cast<uint64_t>(info[2].As<Napi::Number>().Int64Value());
  request.bytes = static_cast<uint64_t>(info[3].As<Napi::Number>().Int64Value());
  // CUDA takes up to a second to begin: not on the JavaScript thread.
  const auto adopted = std::make_shared<std::shared_ptr<AdoptedGpu>>();
  return Task::start(
      info.Env(), "kvx.adoptGpu", [request, adopted] { *adopted = adopt(request); },
      [adopted](Napi::Env env) -> Napi::Value {
        auto result = Napi::Object::New(env);
        result.Set("address", Napi::BigInt::New(env, uint64_t{(*adopted)->imported->address()}));
        result.Set("handle", Handle<AdoptedGpu>::wrap(env, std::move(*adopted)));
        return result;
      });
}

}  // namespace

void export_adopt_gpu(Napi::Env env, Napi::Object exports) {
  exports.Set("adoptGpu", Napi::Function::New(env, adopt_gpu, "adoptGpu"));
}

}  // namespace kvx
