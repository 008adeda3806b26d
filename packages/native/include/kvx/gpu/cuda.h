// CUDA's table: libcuda.so.1 at run time. Functions are asked for by the version of their ABI, so
// that a newer driver gives the same ones.
#pragma once

#include <dlfcn.h>

#include <cstdlib>
#include <string>

#include "kvx/driver.h"
#include "kvx/gpu/api.h"

namespace kvx::gpu {

namespace detail {

struct Loaded {
  Api api{};
  std::string reason;  // why not, or empty
};

// Also initializes CUDA, which takes a few hundred milliseconds.
inline Loaded load_cuda() {
  Loaded loaded;
  Api& api = loaded.api;
  const char* name = std::getenv("KVX_CUDA_LIBRARY");
  if (name == nullptr || *name == '\0') name = "libcuda.so.1";
  void* library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    loaded.reason = std::string("no CUDA driver: ") + dlerror();
    return loaded;
  }
  // Never closed: the driver has threads of its own.
  using Find2 = Result (*)(const char*, void**, int, uint64_t, int*);
  using Find = Result (*)(const char*, void**, int, uint64_t);
  const auto find2 = reinterpret_cast<Find2>(dlsym(library, "cuGetProcAddress_v2"));
  const auto find1 = reinterpret_cast<Find>(dlsym(library, "cuGetProcAddress"));
  if (find2 == nullptr && find1 == nullptr) {
    loaded.reason = std::string(name) +
                    " has no cuGetProcAddress: kvx needs a driver of CUDA 11.4 (470) or newer";
    return loaded;
  }
  const auto find = [&](const char* function, int version) {
    void* found = nullptr;
    int status = 0;
    const Result result = find2 != nullptr ? find2(function, &found, version, 0, &status)
                                           : find1(function, &found, version, 0);
    return result == kOk ? found : nullptr;
  };
  const auto take = [&]<typename F>(F*& slot, const char* function, int version) {
    slot = reinterpret_cast<F*>(find(function, version));
    if (slot == nullptr && loaded.reason.empty()) {
      loaded.reason = std::string(name) + " has no " + function + " of version " +
                      std::to_string(version) + ": kvx needs a driver of CUDA 11.4 (470) or newer";
    }
  };
  take(api.init, "cuInit", 2000);
  take(api.driver_version, "cuDriverGetVersion", 2020);
  take(api.error_name, "cuGetErrorName", 6000);
  take(api.device_count, "cuDeviceGetCount", 2000);
  take(api.device_get, "cuDeviceGet", 2000);
  take(api.device_name, "cuDeviceGetName", 2000);
  take(api.device_uuid, "cuDeviceGetUuid", 11040);
  take(api.device_attribute, "cuDeviceGetAttribute", 2000);
  take(api.device_can_access, "cuDeviceCanAccessPeer", 4000);
  take(api.context_retain, "cuDevicePrimaryCtxRetain", 7000);
  take(api.context_release, "cuDevicePrimaryCtxRelease", 11000);
  take(api.context_push, "cuCtxPushCurrent", 4000);
  take(api.context_pop, "cuCtxPopCurrent", 4000);
  take(api.pointer_attribute, "cuPointerGetAttribute", 4000);
  take(api.address_range, "cuMemGetAddressRange", 3020);
  take(api.memory_allocate, "cuMemAlloc", 3020);
  take(api.memory_free, "cuMemFree", 3020);
  take(api.host_allocate, "cuMemHostAlloc", 2020);
  take(api.host_free, "cuMemFreeHost", 2000);
  take(api.host_register, "cuMemHostRegister", 6050);
  take(api.host_unregister, "cuMemHostUnregister", 4000);
  take(api.host_device_pointer, "cuMemHostGetDevicePointer", 3020);
  take(api.copy_async, "cuMemcpyAsync", 4000);
  api.copy_batch_async =
      reinterpret_cast<decltype(api.copy_batch_async)>(find("cuMemcpyBatchAsync", 12080));
  take(api.set_async, "cuMemsetD8Async", 3020);
  take(api.legacy_export, "cuIpcGetMemHandle", 4010);
  take(api.legacy_open, "cuIpcOpenMemHandle", 11000);
  take(api.legacy_close, "cuIpcCloseMemHandle", 4010);
  take(api.granularity, "cuMemGetAllocationGranularity", 10020);
  take(api.create, "cuMemCreate", 10020);
  take(api.release, "cuMemRelease", 10020);
  take(api.reserve, "cuMemAddressReserve", 10020);
  take(api.unreserve, "cuMemAddressFree", 10020);
  take(api.map, "cuMemMap", 10020);
  take(api.unmap, "cuMemUnmap", 10020);
  take(api.set_access, "cuMemSetAccess", 10020);
  take(api.export_handle, "cuMemExportToShareableHandle", 10020);
  take(api.import_handle, "cuMemImportFromShareableHandle", 10020);
  take(api.retain_handle, "cuMemRetainAllocationHandle", 11000);
  take(api.pool_set_access, "cuMemPoolSetAccess", 11020);
  take(api.pool_export, "cuMemPoolExportToShareableHandle", 11020);
  take(api.pool_import, "cuMemPoolImportFromShareableHandle", 11020);
  take(api.pool_export_pointer, "cuMemPoolExportPointer", 11020);
  take(api.pool_import_pointer, "cuMemPoolImportPointer", 11020);
  take(api.pool_destroy, "cuMemPoolDestroy", 11020);
  take(api.stream_create, "cuStreamCreate", 2000);
  take(api.stream_destroy, "cuStreamDestroy", 4000);
  take(api.stream_query, "cuStreamQuery", 2000);
  take(api.stream_wait, "cuStreamWaitEvent", 3020);
  take(api.event_create, "cuEventCreate", 2000);
  take(api.event_destroy, "cuEventDestroy", 4000);
  take(api.event_record, "cuEventRecord", 2000);
  take(api.event_query, "cuEventQuery", 2000);
  take(api.module_load, "cuModuleLoadDataEx", 2010);
  take(api.module_unload, "cuModuleUnload", 2000);
  take(api.module_function, "cuModuleGetFunction", 2000);
  take(api.launch, "cuLaunchKernel", 4000);
  if (!loaded.reason.empty()) return loaded;
  if (const Result result = api.init(0); result != kOk) {
    const char* text = nullptr;
    api.error_name(result, &text);
    loaded.reason = std::string("cuInit failed: ") + (text == nullptr ? "?" : text) + " (" +
                    std::to_string(result) + ")";
  }
  return loaded;
}

inline const Loaded& loaded_cuda() {
  static const auto& loaded = *new Loaded(load_cuda());
  return loaded;
}

}  // namespace detail

// CUDA's functions, initialized. The first call of a process takes a few hundred milliseconds.
// The environment variable KVX_CUDA_LIBRARY names another library than libcuda.so.1.
// Throws DriverError("ERR_KVX_BACKEND_UNAVAILABLE") with the reason why there is no CUDA here.
inline const Api& cuda() {
  const detail::Loaded& loaded = detail::loaded_cuda();
  if (!loaded.reason.empty()) throw DriverError("ERR_KVX_BACKEND_UNAVAILABLE", loaded.reason);
  return loaded.api;
}

}  // namespace kvx::gpu
