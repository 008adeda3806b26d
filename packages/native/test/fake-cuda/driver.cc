// Finding functions, GPUs, contexts, and the faults that tests ask for.
#include <dlfcn.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <vector>

#include "fake.h"

namespace fake {

namespace {

constexpr int kGpus = 2;
std::atomic<bool> initialized{false};
std::atomic<Result> sticky{0};
std::atomic<int> retained[kGpus];
thread_local std::vector<int> contexts;

struct Function {
  const char* name;
  int since;
};

std::vector<int> visible_gpus() {
  const char* text = std::getenv("CUDA_VISIBLE_DEVICES");
  if (text == nullptr) return {0, 1};
  std::vector<int> gpus;
  std::stringstream words(text);
  for (std::string word; std::getline(words, word, ',');) {
    const int gpu = std::atoi(word.c_str());
    if (gpu < 0 || gpu >= kGpus) break;
    gpus.push_back(gpu);
  }
  return gpus;
}

}  // namespace

long wanted(const std::string& name, long otherwise) {
  const char* text = std::getenv("KVX_FAKE_CUDA_FAULTS");
  if (text == nullptr) return otherwise;
  std::stringstream words(text);
  for (std::string word; std::getline(words, word, ',');) {
    const size_t equals = word.find('=');
    if (word.substr(0, equals) != name) continue;
    const std::string value = word.substr(equals + 1);
    return value == "never" ? 1 : std::atol(value.c_str());
  }
  return otherwise;
}

Result ready() {
  if (!initialized) return kNotInitialized;
  if (const Result result = sticky; result != 0) return result;
  return contexts.empty() ? kInvalidContext : kOk;
}
int current_gpu() {
  return contexts.empty() ? -1 : contexts.back();
}
int visible(int ordinal) {
  const auto gpus = visible_gpus();
  return ordinal >= 0 && ordinal < static_cast<int>(gpus.size())
             ? gpus[static_cast<size_t>(ordinal)]
             : -1;
}
int ordinal_of(int gpu) {
  const auto gpus = visible_gpus();
  for (size_t i = 0; i < gpus.size(); i++) {
    if (gpus[i] == gpu) return static_cast<int>(i);
  }
  return -1;
}
void break_contexts(Result result) {
  sticky = result;
}
Result broken() {
  return sticky;
}

}  // namespace fake

using namespace fake;

FAKE Result cuGetProcAddress_v2(const char* name, void** found, int version, uint64_t, int*) {
  *found =
      version > 0 && wanted(std::string("no ") + name, 0) == 0 ? function_named(name) : nullptr;
  return *found == nullptr ? kNotFound : kOk;
}

namespace fake {
void* function_named(const std::string& name) {
  Dl_info here;
  dladdr(reinterpret_cast<void*>(&cuGetProcAddress_v2), &here);
  void* library = dlopen(here.dli_fname, RTLD_NOW | RTLD_NOLOAD);
  return dlsym(library, name.c_str());
}
}  // namespace fake

FAKE Result cuInit(unsigned) {
  if (const long result = wanted("cuInit", 0); result != 0) return static_cast<Result>(result);
  initialized = true;
  return kOk;
}
FAKE Result cuDriverGetVersion(int* version) {
  *version = 13000;
  return kOk;
}
FAKE Result cuGetErrorName(Result result, const char** name) {
  switch (result) {
    case kInvalid:
      *name = "CUDA_ERROR_INVALID_VALUE";
      return kOk;
    case kOutOfMemory:
      *name = "CUDA_ERROR_OUT_OF_MEMORY";
      return kOk;
    case kInvalidContext:
      *name = "CUDA_ERROR_INVALID_CONTEXT";
      return kOk;
    case 700:
      *name = "CUDA_ERROR_ILLEGAL_ADDRESS";
      return kOk;
    case 719:
      *name = "CUDA_ERROR_LAUNCH_FAILED";
      return kOk;
    default:
      *name = "CUDA_ERROR_OF_THE_FAKE";
      return kOk;
  }
}
FAKE Result cuDeviceGetCount(int* count) {
  *count = 0;
  while (visible(*count) >= 0) ++*count;
  return *count == 0 ? kNoDevice : kOk;
}
FAKE Result cuDeviceGet(DeviceHandle* device, int ordinal) {
  if (visible(ordinal) < 0) return kInvalidDevice;
  *device = ordinal;
  return kOk;
}
FAKE Result cuDeviceGetName(char* name, int bytes, DeviceHandle device) {
  std::snprintf(name, static_cast<size_t>(bytes), "Fake GPU %d", visible(device));
  return kOk;
}
FAKE Result cuDeviceGetUuid(UuidBytes* uuid, DeviceHandle device) {
  if (visible(device) < 0) return kInvalidDevice;
  std::memset(uuid->bytes, 0xa0 + visible(device), sizeof uuid->bytes);
  return kOk;
}
FAKE Result cuDeviceGetAttribute(int* value, int attribute, DeviceHandle) {
  switch (attribute) {
    case kMultiprocessors:
      *value = 132;
      return kOk;
    case kComputeMajor:
      *value = 9;
      return kOk;
    case kComputeMinor:
      *value = 0;
      return kOk;
    case kVirtualMemory:
    case kFileHandles:
      *value = 1;
      return kOk;
    case kMps:
      *value = static_cast<int>(wanted("mps", 0));
      return kOk;
    default:
      return kInvalid;
  }
}
FAKE Result cuDeviceCanAccessPeer(int* can, DeviceHandle, DeviceHandle) {
  *can = static_cast<int>(wanted("peers", 1));
  return kOk;
}
FAKE Result cuDevicePrimaryCtxRetain(ContextHandle* context, DeviceHandle device) {
  if (const long result = wanted("cuDevicePrimaryCtxRetain", 0); result != 0) {
    return static_cast<Result>(result);
  }
  if (sticky != 0) return sticky;
  const int gpu = visible(device);
  if (gpu < 0) return kInvalidDevice;
  retained[gpu]++;
  *context = reinterpret_cast<ContextHandle>(static_cast<uintptr_t>(gpu + 1));
  return kOk;
}
FAKE Result cuDevicePrimaryCtxRelease(DeviceHandle device) {
  const int gpu = visible(device);
  return gpu >= 0 && retained[gpu]-- > 0 ? kOk : kInvalidContext;
}
FAKE Result cuCtxPushCurrent(ContextHandle context) {
  const int gpu = static_cast<int>(reinterpret_cast<uintptr_t>(context)) - 1;
  if (retained[gpu] <= 0) return kInvalidContext;
  contexts.push_back(gpu);
  return kOk;
}
FAKE Result cuCtxPopCurrent(ContextHandle*) {
  if (contexts.empty()) return kInvalidContext;
  contexts.pop_back();
  return kOk;
}
