// A stream of a GPU with work that takes a while, as a model's is.
#include <napi.h>

#include <cstdint>

#include "kvx/gpu.h"

namespace {

using namespace kvx;

// (device, address, bytes, byte, times, event?) -> the stream's handle. The memory is filled so
// many times, once the event is reached if one is given: with `byte` at the end and with something
// else before. Context and stream stay for good.
Napi::Value busy_stream(const Napi::CallbackInfo& info) {
  const int device = info[0].As<Napi::Number>().Int32Value();
  bool lossless = true;
  const gpu::Address address = info[1].As<Napi::BigInt>().Uint64Value(&lossless);
  const auto bytes = static_cast<size_t>(info[2].As<Napi::Number>().Int64Value());
  const auto last = static_cast<uint8_t>(info[3].As<Napi::Number>().Uint32Value());
  const uint32_t times = info[4].As<Napi::Number>().Uint32Value();
  const uint64_t event = info[5].IsBigInt() ? info[5].As<Napi::BigInt>().Uint64Value(&lossless) : 0;
  try {
    auto& context = *new std::shared_ptr(gpu::Context::open(device));
    const gpu::Context::Current current(*context);
    const auto& stream = *new gpu::detail::Stream(*context, "ERR_KVX_INTERNAL");
    if (event != 0) {
      const auto handle = reinterpret_cast<gpu::EventHandle>(event);
      context->check(context->api().stream_wait(stream.get(), handle, 0), "cuStreamWaitEvent",
                     "ERR_KVX_INTERNAL");
    }
    for (uint32_t left = times; left > 0; left--) {
      const auto byte = static_cast<uint8_t>(last + (left - 1) % 250);
      context->check(context->api().set_async(address, byte, bytes, stream.get()),
                     "cuMemsetD8Async", "ERR_KVX_INTERNAL");
    }
    return Napi::BigInt::New(info.Env(), reinterpret_cast<uint64_t>(stream.get()));
  } catch (const DriverError& error) {
    throw Napi::Error::New(info.Env(), error.what());
  }
}

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  exports.Set("busyStream", Napi::Function::New(env, busy_stream, "busyStream"));
  return exports;
}

}  // namespace

NODE_API_MODULE(stream, Init)
