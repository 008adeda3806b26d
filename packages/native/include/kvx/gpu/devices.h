// What GPUs there are, without a context on any of them.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "kvx/gpu/cuda.h"

namespace kvx::gpu {

// Names a GPU in every process of every container; an ordinal means nothing outside its process.
using Uuid = std::array<uint8_t, 16>;

// "GPU-5d2f…", as nvidia-smi writes it.
inline std::string text(const Uuid& uuid) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string out = "GPU-";
  for (size_t i = 0; i < uuid.size(); i++) {
    if (i == 4 || i == 6 || i == 8 || i == 10) out += '-';
    out += kDigits[uuid[i] >> 4];
    out += kDigits[uuid[i] & 15];
  }
  return out;
}

struct Device {
  int ordinal = 0;
  Uuid uuid{};
  std::string name;
  int compute_major = 0, compute_minor = 0;
  int multiprocessors = 0;
  bool mps = false;           // work goes through a server process that outlives this one
  bool allocatable = false;   // kvx can allocate memory here that other processes can map
  std::vector<bool> reaches;  // by ordinal: whose memory it can read and write itself
};

struct Devices {
  std::string reason;      // why there is none, or empty
  int driver_version = 0;  // of the CUDA that the driver speaks: 13000 is 13.0
  std::vector<Device> list;
};

// Throws DriverError("ERR_KVX_BACKEND_UNAVAILABLE") when there is no such GPU.
inline Uuid uuid_of(const Api& api, int ordinal) {
  DeviceHandle device = 0;
  UuidBytes bytes{};
  if (api.device_get(&device, ordinal) != kOk || api.device_uuid(&bytes, device) != kOk) {
    throw DriverError("ERR_KVX_BACKEND_UNAVAILABLE",
                      "There is no GPU " + std::to_string(ordinal) +
                          " here (CUDA_VISIBLE_DEVICES decides which ones a process sees).");
  }
  return std::to_array(bytes.bytes);
}

// Takes the time of cuda(). Never throws: `reason` says why the list is empty.
inline Devices devices() {
  Devices found;
  const detail::Loaded& loaded = detail::loaded_cuda();
  found.reason = loaded.reason;
  if (!found.reason.empty()) return found;
  const Api& api = loaded.api;
  int count = 0;
  api.driver_version(&found.driver_version);
  if (api.device_count(&count) != kOk || count == 0) {
    found.reason = "the CUDA driver shows no GPU to this process";
    return found;
  }
  for (int ordinal = 0; ordinal < count; ordinal++) {
    DeviceHandle handle = 0;
    UuidBytes uuid{};
    char name[128] = {};
    if (api.device_get(&handle, ordinal) != kOk || api.device_uuid(&uuid, handle) != kOk ||
        api.device_name(name, sizeof name, handle) != kOk) {
      continue;
    }
    const auto attribute = [&](int which) {
      int value = 0;  // an attribute that an old driver does not know stays 0
      api.device_attribute(&value, which, handle);
      return value;
    };
    Device device{.ordinal = ordinal,
                  .uuid = std::to_array(uuid.bytes),
                  .name = name,
                  .compute_major = attribute(kComputeMajor),
                  .compute_minor = attribute(kComputeMinor),
                  .multiprocessors = attribute(kMultiprocessors),
                  .mps = attribute(kMps) != 0,
                  .allocatable = attribute(kVirtualMemory) != 0 && attribute(kFileHandles) != 0,
                  .reaches = {}};
    for (int peer = 0; peer < count; peer++) {
      DeviceHandle other = 0;
      int reaches = peer == ordinal ? 1 : 0;
      if (peer != ordinal && api.device_get(&other, peer) == kOk) {
        api.device_can_access(&reaches, handle, other);
      }
      device.reaches.push_back(reaches != 0);
    }
    found.list.push_back(std::move(device));
  }
  return found;
}

}  // namespace kvx::gpu
