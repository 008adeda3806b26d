#include "kvx/gpu/devices.h"

#include <cstdlib>

#include "device_memory.h"

TEST("the GPUs are listed with names, UUIDs and whom they reach, without a context") {
  const gpu::Devices found = gpu::devices();
  CHECK(found.reason.empty() && !found.list.empty() && found.driver_version >= 11040);
  for (size_t i = 0; i < found.list.size(); i++) {
    const gpu::Device& device = found.list[i];
    CHECK(device.ordinal == static_cast<int>(i));
    CHECK(!device.name.empty() && device.multiprocessors > 0 && device.compute_major >= 7);
    CHECK(device.reaches.size() == found.list.size() && device.reaches[i]);
    CHECK(gpu::text(device.uuid).size() == 40);
    for (size_t j = 0; j < i; j++) CHECK(device.uuid != found.list[j].uuid);
  }
  // Whatever needs a context says that the thread has none.
  constexpr gpu::Result kInvalidContext = 201;
  gpu::Address address = 0;
  CHECK(gpu::cuda().memory_allocate(&address, 4096) == kInvalidContext);
}

TEST("a driver that is not there is a reason, and an error where it is needed") {
  setenv("KVX_CUDA_LIBRARY", "libcuda-that-is-nowhere.so", 1);
  const gpu::Devices found = gpu::devices();
  CHECK(found.list.empty());
  has(found.reason, "no CUDA driver: libcuda-that-is-nowhere.so");
  has(message_of([] { gpu::Context::open(0); }, "ERR_KVX_BACKEND_UNAVAILABLE"), "no CUDA driver");
}

TEST("a library that is no CUDA driver is a reason") {
  setenv("KVX_CUDA_LIBRARY", "libm.so.6", 1);
  has(gpu::devices().reason, "libm.so.6 has no cuGetProcAddress");
}

TEST("a process that is shown no GPU is told so") {
  setenv("CUDA_VISIBLE_DEVICES", "", 1);
  // The real driver already refuses cuInit then.
  const std::string reason = gpu::devices().reason;
  CHECK(!reason.empty());
}

TEST("a GPU that is not there is refused by its number") {
  has(message_of([] { gpu::Context::open(63); }, "ERR_KVX_BACKEND_UNAVAILABLE"),
      "There is no GPU 63 here");
}
