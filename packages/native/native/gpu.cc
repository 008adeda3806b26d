#include "gpu.h"

#include <cstring>
#include <memory>
#include <mutex>

#include "kvx/convert.h"
#include "kvx/gpu/allocate.h"
#include "kvx/gpu/devices.h"
#include "kvx/gpu/stream.h"
#include "kvx/handle.h"
#include "task.h"

namespace kvx {

namespace {

constexpr const char* kMemory = "ERR_KVX_MEMORY";

// Memory of kvx on a GPU, until it is freed.
class GpuMemory {
 public:
  static constexpr uint64_t kTypeTag = 0x6b76782d67707531;
  static constexpr const char* kTypeName = "GPU memory allocated by kvx";

  GpuMemory(int ordinal, uint64_t bytes)
      : context_(gpu::Context::open(ordinal)),
        allocation_(std::make_unique<gpu::Allocation>(context_, bytes)) {}

  gpu::Address address() const { return allocation_->address(); }

  void free() {
    const std::lock_guard lock(mutex_);
    allocation_.reset();
  }

  void read(uint64_t offset, uint8_t* to, size_t bytes) {
    copy(
        bytes,
        [&](const gpu::detail::PinnedBuffer& buffer, gpu::StreamHandle stream) {
          return context_->api().copy_async(buffer.address(), address() + offset, bytes, stream);
        },
        [&](const uint8_t* data) { std::memcpy(to, data, bytes); });
  }
  void write(uint64_t offset, const uint8_t* from, size_t bytes) {
    copy(
        bytes,
        [&](const gpu::detail::PinnedBuffer& buffer, gpu::StreamHandle stream) {
          std::memcpy(buffer.data(), from, bytes);
          return context_->api().copy_async(address() + offset, buffer.address(), bytes, stream);
        },
        [](const uint8_t*) {});
  }

 private:
  template <typename Start, typename Done>
  void copy(size_t bytes, Start start, Done done) {
    if (bytes == 0) return;
    const std::lock_guard lock(mutex_);
    if (!allocation_) throw DriverError("ERR_KVX_INVALID_STATE", "The memory was freed.");
    const gpu::Context::Current current(*context_);
    const gpu::detail::PinnedBuffer buffer(*context_, bytes, kMemory);
    const gpu::detail::Stream stream(*context_, kMemory);
    context_->check(start(buffer, stream.get()), "cuMemcpyAsync", kMemory);
    context_->check(stream.wait([] { return false; }), "cuMemcpyAsync", kMemory);
    done(buffer.data());
  }

  const std::shared_ptr<gpu::Context> context_;
  std::mutex mutex_;  // guards what follows
  std::unique_ptr<gpu::Allocation> allocation_;
};

Napi::Value to_js(Napi::Env env, const gpu::Devices& found) {
  auto list = Napi::Array::New(env, found.list.size());
  for (size_t i = 0; i < found.list.size(); i++) {
    const gpu::Device& device = found.list[i];
    auto reaches = Napi::Array::New(env, device.reaches.size());
    for (size_t j = 0; j < device.reaches.size(); j++) {
      reaches.Set(static_cast<uint32_t>(j), Napi::Boolean::New(env, device.reaches[j]));
    }
    auto object = Napi::Object::New(env);
    object.Set("ordinal", device.ordinal);
    object.Set("uuid", gpu::text(device.uuid));
    object.Set("name", device.name);
    object.Set("computeCapability",
               std::to_string(device.compute_major) + "." + std::to_string(device.compute_minor));
    object.Set("multiprocessors", device.multiprocessors);
    object.Set("mps", device.mps);
    object.Set("allocatable", device.allocatable);
    object.Set("reaches", reaches);
    list.Set(static_cast<uint32_t>(i), object);
  }
  auto result = Napi::Object::New(env);
  result.Set("reason", found.reason);
  result.Set("cuda", found.driver_version);
  result.Set("list", list);
  return result;
}

Napi::Value gpus(const Napi::CallbackInfo& info) {
  const auto found = std::make_shared<gpu::Devices>();
  return Task::start(
      info.Env(), "kvx.gpus", [found] { *found = gpu::devices(); },
      [found](Napi::Env env) { return to_js(env, *found); });
}

// (ordinal, bytes) -> Promise<{ address, handle }>; TypeScript has checked both.
Napi::Value allocate(const Napi::CallbackInfo& info) {
  const int ordinal = info[0].As<Napi::Number>().Int32Value();
  const auto bytes = static_cast<uint64_t>(info[1].As<Napi::Number>().Int64Value());
  const auto memory = std::make_shared<std::shared_ptr<GpuMemory>>();
  return Task::start(
      info.Env(), "kvx.allocateGpu", [=] { *memory = std::make_shared<GpuMemory>(ordinal, bytes); },
      [memory](Napi::Env env) {
        auto result = Napi::Object::New(env);
        result.Set("address", Napi::BigInt::New(env, uint64_t{(*memory)->address()}));
        result.Set("handle", Handle<GpuMemory>::wrap(env, *memory));
        return result;
      });
}

Napi::Value undefined(Napi::Env env) {
  return env.Undefined();
}

Napi::Value free_memory(const Napi::CallbackInfo& info) {
  const auto memory = Handle<GpuMemory>::unwrap(info[0]);
  return Task::start(info.Env(), "kvx.freeGpu", [memory] { memory->free(); }, undefined);
}

// (handle, offset, buffer, whether the buffer is written to the GPU)
Napi::Value copy(const Napi::CallbackInfo& info) {
  const auto memory = Handle<GpuMemory>::unwrap(info[0]);
  const auto offset = static_cast<uint64_t>(info[1].As<Napi::Number>().Int64Value());
  auto buffer = info[2].As<Napi::Uint8Array>();
  const bool write = info[3].As<Napi::Boolean>();
  uint8_t* data = buffer.Data();
  const size_t bytes = buffer.ByteLength();
  return Task::start(
      info.Env(), "kvx.copyGpu",
      [=] {
        if (write) {
          memory->write(offset, data, bytes);
        } else {
          memory->read(offset, data, bytes);
        }
      },
      undefined, buffer);
}

}  // namespace

void export_gpu(Napi::Env env, Napi::Object exports) {
  exports.Set("gpus", Napi::Function::New(env, gpus, "gpus"));
  exports.Set("allocateGpu", Napi::Function::New(env, allocate, "allocateGpu"));
  exports.Set("freeGpu", Napi::Function::New(env, free_memory, "freeGpu"));
  exports.Set("copyGpu", Napi::Function::New(env, copy, "copyGpu"));
}

}  // namespace kvx
