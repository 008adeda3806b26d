// GPU memory as a host program allocates it, and its bytes.
#pragma once

#include <dlfcn.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "../parts/check.h"
#include "kvx/gpu.h"

using namespace kvx;

using Data = std::vector<uint8_t>;

inline Data pattern(size_t bytes, uint64_t seed) {
  Data data(bytes);
  uint64_t x = seed * 0x9E3779B97F4A7C15 + 1;
  for (auto& byte : data) {
    x = x * 6364136223846793005 + 1442695040888963407;
    byte = static_cast<uint8_t>(x >> 56);
  }
  return data;
}

inline void must(gpu::Result result) {
  if (result != gpu::kOk) throw std::runtime_error("CUDA error " + std::to_string(result));
}

inline Data read(gpu::Context& context, gpu::Address from, size_t bytes) {
  const gpu::Context::Current current(context);
  const gpu::detail::PinnedBuffer buffer(context, bytes, "TEST");
  const gpu::detail::Stream stream(context, "TEST");
  must(context.api().copy_async(buffer.address(), from, bytes, stream.get()));
  must(stream.wait([] { return false; }));
  return {buffer.data(), buffer.data() + bytes};
}

inline void write(gpu::Context& context, gpu::Address to, const Data& data) {
  const gpu::Context::Current current(context);
  const gpu::detail::PinnedBuffer buffer(context, data.size(), "TEST");
  const gpu::detail::Stream stream(context, "TEST");
  std::memcpy(buffer.data(), data.data(), data.size());
  must(context.api().copy_async(to, buffer.address(), data.size(), stream.get()));
  must(stream.wait([] { return false; }));
}

// What kvx itself does not call.
template <typename F>
F driver_function(const char* name) {
  const char* library = std::getenv("KVX_CUDA_LIBRARY");
  void* driver = dlopen(library == nullptr ? "libcuda.so.1" : library, RTLD_NOW | RTLD_LOCAL);
  const auto function = reinterpret_cast<F>(dlsym(driver, name));
  if (function == nullptr) throw std::runtime_error(std::string("no ") + name);
  return function;
}

inline gpu::Address allocate_plain(gpu::Context& context, size_t bytes) {
  const gpu::Context::Current current(context);
  gpu::Address address = 0;
  must(context.api().memory_allocate(&address, bytes));
  return address;
}

// `parts` allocations of cuMemCreate side by side, as torch's expandable segments are.
inline gpu::Address allocate_mapped(gpu::Context& context, size_t part_bytes, size_t parts,
                                    int handle_types) {
  const gpu::Context::Current current(context);
  const gpu::Api& api = context.api();
  gpu::Address address = 0;
  must(api.reserve(&address, part_bytes * parts, 0, 0, 0));
  for (size_t i = 0; i < parts; i++) {
    const gpu::AllocationProperties properties{.handle_types = handle_types,
                                               .location = context.location()};
    const gpu::Access access{.location = context.location()};
    gpu::AllocationHandle handle = 0;
    must(api.create(&handle, part_bytes, &properties, 0));
    must(api.map(address + i * part_bytes, part_bytes, 0, handle, 0));
    must(api.release(handle));
    must(api.set_access(address + i * part_bytes, part_bytes, &access, 1));
  }
  return address;
}

inline gpu::Address allocate_pooled(gpu::Context& context, size_t bytes, int handle_types) {
  struct Properties {  // CUmemPoolProps
    int type = 1, handle_types;
    gpu::Location location;
    void* windows = nullptr;
    size_t most = 0;
    uint16_t usage = 0;
    uint8_t reserved[54] = {};
  } properties{.handle_types = handle_types, .location = context.location()};
  static_assert(sizeof properties == 88);
  const gpu::Context::Current current(context);
  const auto create =
      driver_function<gpu::Result (*)(gpu::PoolHandle*, const Properties*)>("cuMemPoolCreate");
  const auto take =
      driver_function<gpu::Result (*)(gpu::Address*, size_t, gpu::PoolHandle, gpu::StreamHandle)>(
          "cuMemAllocFromPoolAsync");
  gpu::PoolHandle pool = nullptr;
  must(create(&pool, &properties));
  static auto& pools = *new std::vector<gpu::PoolHandle>;  // for as long as their memory
  pools.push_back(pool);
  gpu::Address address = 0;
  const gpu::detail::Stream stream(context, "TEST");
  must(take(&address, bytes, pool, stream.get()));
  must(stream.wait([] { return false; }));
  return address;
}

// Waits until a ticket has ended one way or the other; 20 s at most.
inline State settle(gpu::Copier& copier, gpu::Copier::Ticket ticket, std::string& reason) {
  const auto deadline = Clock::now() + std::chrono::seconds(20);
  for (;;) {
    const State state = copier.poll(ticket, reason);
    if (state != State::kPending) return state;
    if (Clock::now() > deadline) throw std::runtime_error("a copy did not end in 20 s");
    std::this_thread::yield();
  }
}

inline void copy_now(gpu::Copier& copier, const gpu::Batch& batch) {
  const std::atomic<bool> cancelled{false};
  std::string reason;
  const auto ticket = copier.submit(batch, {}, cancelled);
  const State state = settle(copier, ticket, reason);
  if (state != State::kDone) throw std::runtime_error("a copy failed: " + reason);
  copier.release(ticket);
}

inline bool two_gpus() {
  return gpu::devices().list.size() > 1;
}

inline std::string message_of(const std::function<void()>& body, const std::string& code) {
  try {
    body();
  } catch (const DriverError& error) {
    if (error.code() != code) throw std::runtime_error("the code is " + error.code());
    return error.what();
  }
  throw std::runtime_error("nothing was thrown");
}

inline bool has(const std::string& text, const std::string& part) {
  if (text.find(part) != std::string::npos) return true;
  throw std::runtime_error("\"" + text + "\" does not say \"" + part + "\"");
}
