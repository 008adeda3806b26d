// Memory of the fake's GPUs: memory files, so that other processes can map them.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <map>
#include <mutex>
#include <string>

#include "fake.h"

using namespace fake;

namespace {

// Physical memory.
struct Physical {
  int file = -1;
  uint64_t bytes = 0;
  int gpu = 0;
  int handle_types = 0;

  Physical() = default;
  Physical(const Physical&) = delete;
  ~Physical() {
    if (file >= 0) close(file);
  }
};
using Memory = std::shared_ptr<Physical>;

enum class Kind { kAllocated, kMapped, kPooled };

// Memory under an address.
struct Mapping {
  uint64_t bytes = 0;
  Memory memory;
  Kind kind = Kind::kMapped;
  unsigned accessible = 0;  // bit by GPU
  PoolHandle pool = nullptr;
  uint64_t number = 0;
  bool imported = false;
};

struct Pool {
  Memory memory;
  uint64_t used = 0;
  unsigned accessible = 0;
  bool imported = false;
};

struct Handle {
  Memory memory;
  uint64_t references = 0;
};

// Never destroyed: kernels of streams that a program has given up may still run at its end.
std::mutex& mutex = *new std::mutex;
auto& mappings = *new std::map<Address, Mapping>;
auto& reservations = *new std::map<Address, uint64_t>;
auto& handles = *new std::map<AllocationHandle, Handle>;
auto& host_ranges = *new std::map<Address, uint64_t>;
uint64_t last_number = 0;

Memory make(uint64_t bytes, int gpu, int handle_types) {
  constexpr uint64_t kMost = uint64_t{1} << 40;
  const auto memory = std::make_shared<Physical>();
  if (bytes > kMost) return nullptr;
  // The GPU's number is in the name, which goes wherever the descriptor goes.
  memory->file = memfd_create(("fake-gpu-" + std::to_string(gpu)).c_str(), MFD_CLOEXEC);
  memory->bytes = bytes;
  memory->gpu = gpu;
  memory->handle_types = handle_types;
  if (memory->file < 0 || ftruncate(memory->file, static_cast<off_t>(bytes)) != 0) return nullptr;
  return memory;
}

// Of a descriptor, which is taken over.
Memory adopt(int file) {
  struct stat status{};
  const auto memory = std::make_shared<Physical>();
  memory->file = file;
  char name[128] = {};
  const std::string link = "/proc/self/fd/" + std::to_string(file);
  if (file < 0 || fstat(file, &status) != 0 || readlink(link.c_str(), name, sizeof name - 1) < 0) {
    return nullptr;
  }
  const char* number = std::strstr(name, "fake-gpu-");
  if (number == nullptr) return nullptr;
  memory->gpu = std::atoi(number + 9);
  memory->bytes = static_cast<uint64_t>(status.st_size);
  memory->handle_types = kFileDescriptor;
  return memory;
}

Address map_anywhere(const Memory& memory, uint64_t bytes, uint64_t offset = 0) {
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory->file,
                  static_cast<off_t>(offset));
  return at == MAP_FAILED ? 0 : reinterpret_cast<Address>(at);
}

std::map<Address, Mapping>::iterator mapping_at(Address address) {
  auto after = mappings.upper_bound(address);
  if (after == mappings.begin()) return mappings.end();
  --after;
  return address < after->first + after->second.bytes ? after : mappings.end();
}

// What a legacy handle holds: the other process finds the file by it.
struct Legacy {
  int process, file;
  uint64_t number;
};

}  // namespace

bool fake::reachable(int gpu, Address address, uint64_t bytes) {
  const std::lock_guard lock(mutex);
  const Address end = address + bytes;
  while (address < end) {
    if (const auto found = mapping_at(address); found != mappings.end()) {
      if ((found->second.accessible >> gpu & 1) == 0) return false;
      address = found->first + found->second.bytes;
      continue;
    }
    auto host = host_ranges.upper_bound(address);
    if (host == host_ranges.begin()) return false;
    --host;
    if (address >= host->first + host->second) return false;
    address = host->first + host->second;
  }
  return true;
}

FAKE Result cuPointerGetAttribute(void* out, int attribute, Address address) {
  FAKE_CALL("cuPointerGetAttribute");
  const std::lock_guard lock(mutex);
  const auto found = mapping_at(address);
  if (found == mappings.end()) return kInvalid;
  const Mapping& mapping = found->second;
  const auto put = [out](auto value) {
    std::memcpy(out, &value, sizeof value);
    return kOk;
  };
  switch (attribute) {
    case kPointerType:
      return put(int{2});
    case kPointerBuffer:
      return put(mapping.number);
    case kPointerOrdinal:
      return put(ordinal_of(mapping.memory->gpu));
    case kPointerLegacy:
      return put(int{mapping.kind == Kind::kAllocated && !mapping.imported});
    case kPointerHandleTypes:
      return put(static_cast<uint64_t>(mapping.memory->handle_types));
    case kPointerPool:
      return put(mapping.pool);
    default:
      return kInvalid;
  }
}
FAKE Result cuMemGetAddressRange(Address* base, size_t* bytes, Address address) {
  FAKE_CALL("cuMemGetAddressRange");
  const std::lock_guard lock(mutex);
  const auto found = mapping_at(address);
  if (found == mappings.end()) return kNotFound;
  *base = found->first;
  *bytes = found->second.bytes;
  return kOk;
}
FAKE Result cuMemAlloc(Address* address, size_t bytes) {
  FAKE_CALL("cuMemAlloc");
  const std::lock_guard lock(mutex);
  const Memory memory = make(bytes, current_gpu(), 0);
  if (memory == nullptr || (*address = map_anywhere(memory, bytes)) == 0) return kOutOfMemory;
  mappings[*address] = {.bytes = bytes,
                        .memory = memory,
                        .kind = Kind::kAllocated,
                        .accessible = 3,
                        .number = ++last_number};
  return kOk;
}
FAKE Result cuMemFree(Address address) {
  FAKE_CALL("cuMemFree");
  const std::lock_guard lock(mutex);
  const auto found = mappings.find(address);
  if (found == mappings.end() || found->second.kind == Kind::kMapped) return kInvalid;
  munmap(reinterpret_cast<void*>(address), found->second.bytes);
  mappings.erase(found);
  return kOk;
}

FAKE Result cuMemHostAlloc(void** out, size_t bytes, unsigned) {
  FAKE_CALL("cuMemHostAlloc");
  const std::lock_guard lock(mutex);
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) return kOutOfMemory;
  host_ranges[reinterpret_cast<Address>(at)] = bytes;
  *out = at;
  return kOk;
}
FAKE Result cuMemFreeHost(void* at) {
  FAKE_CALL("cuMemFreeHost");
  const std::lock_guard lock(mutex);
  const auto found = host_ranges.find(reinterpret_cast<Address>(at));
  if (found == host_ranges.end()) return kInvalid;
  munmap(at, found->second);
  host_ranges.erase(found);
  return kOk;
}
FAKE Result cuMemHostRegister(void* at, size_t bytes, unsigned flags) {
  FAKE_CALL("cuMemHostRegister");
  const std::lock_guard lock(mutex);
  const auto begin = reinterpret_cast<Address>(at);
  if (flags != 3) return kInvalid;
  for (const auto& [other, size] : host_ranges) {
    if (begin < other + size && other < begin + bytes) return kHostMemoryRegistered;
  }
  host_ranges[begin] = bytes;
  return kOk;
}
FAKE Result cuMemHostUnregister(void* at) {
  FAKE_CALL("cuMemHostUnregister");
  const std::lock_guard lock(mutex);
  return host_ranges.erase(reinterpret_cast<Address>(at)) == 1 ? kOk : kInvalid;
}
FAKE Result cuMemHostGetDevicePointer(Address* out, void* at, unsigned) {
  FAKE_CALL("cuMemHostGetDevicePointer");
  const std::lock_guard lock(mutex);
  const auto address = reinterpret_cast<Address>(at);
  auto found = host_ranges.upper_bound(address);
  if (found == host_ranges.begin()) return kInvalid;
  --found;
  if (address >= found->first + found->second) return kInvalid;
  *out = address;
  return kOk;
}

FAKE Result cuIpcGetMemHandle(LegacyHandle* out, Address address) {
  FAKE_CALL("cuIpcGetMemHandle");
  const std::lock_guard lock(mutex);
  const auto found = mapping_at(address);
  if (found == mappings.end() || found->second.kind != Kind::kAllocated) return kInvalid;
  const Legacy legacy{getpid(), found->second.memory->file, found->second.number};
  *out = {};
  std::memcpy(out->bytes, &legacy, sizeof legacy);
  return kOk;
}
FAKE Result cuIpcOpenMemHandle(Address* out, LegacyHandle handle, unsigned flags) {
  FAKE_CALL("cuIpcOpenMemHandle");
  const std::lock_guard lock(mutex);
  Legacy legacy{};
  std::memcpy(&legacy, handle.bytes, sizeof legacy);
  if (flags != 1) return kInvalid;
  if (legacy.process == getpid()) return kInvalidContext;
  const std::string path =
      "/proc/" + std::to_string(legacy.process) + "/fd/" + std::to_string(legacy.file);
  const Memory memory = adopt(open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (memory == nullptr) return kInvalid;
  if (memory->gpu != current_gpu() && wanted("peers", 1) == 0) return 217;
  *out = map_anywhere(memory, memory->bytes);
  mappings[*out] = {.bytes = memory->bytes,
                    .memory = memory,
                    .kind = Kind::kAllocated,
                    .accessible = 1U << current_gpu(),
                    .number = ++last_number,
                    .imported = true};
  return *out == 0 ? kOutOfMemory : kOk;
}
FAKE Result cuIpcCloseMemHandle(Address address) {
  return cuMemFree(address);
}

FAKE Result cuMemGetAllocationGranularity(size_t* out, const AllocationProperties*, int) {
  FAKE_CALL("cuMemGetAllocationGranularity");
  *out = kGranularity;
  return kOk;
}
FAKE Result cuMemCreate(AllocationHandle* out, size_t bytes, const AllocationProperties* properties,
                        unsigned long long) {
  FAKE_CALL("cuMemCreate");
  const std::lock_guard lock(mutex);
  const int gpu = visible(properties->location.ordinal);
  if (bytes == 0 || bytes % kGranularity != 0 || gpu < 0) return kInvalid;
  const Memory memory = make(bytes, gpu, properties->handle_types);
  if (memory == nullptr) return kOutOfMemory;
  *out = ++last_number;
  handles[*out] = {memory, 1};
  return kOk;
}
FAKE Result cuMemRelease(AllocationHandle handle) {
  FAKE_CALL("cuMemRelease");
  const std::lock_guard lock(mutex);
  const auto found = handles.find(handle);
  if (found == handles.end()) return kInvalid;
  // What is mapped stays.
  if (--found->second.references == 0) handles.erase(found);
  return kOk;
}
FAKE Result cuMemAddressReserve(Address* out, size_t bytes, size_t, Address, unsigned long long) {
  FAKE_CALL("cuMemAddressReserve");
  const std::lock_guard lock(mutex);
  if (bytes == 0 || bytes % kGranularity != 0) return kInvalid;
  // At a border of the granularity, as of the real driver.
  void* at = mmap(nullptr, bytes + kGranularity, PROT_NONE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) return kOutOfMemory;
  const auto begin = reinterpret_cast<Address>(at);
  const Address aligned = (begin + kGranularity - 1) / kGranularity * kGranularity;
  if (aligned > begin) munmap(at, aligned - begin);
  const Address end = begin + bytes + kGranularity;
  if (end > aligned + bytes)
    munmap(reinterpret_cast<void*>(aligned + bytes), end - aligned - bytes);
  reservations[aligned] = bytes;
  *out = aligned;
  return kOk;
}
FAKE Result cuMemAddressFree(Address address, size_t bytes) {
  FAKE_CALL("cuMemAddressFree");
  const std::lock_guard lock(mutex);
  const auto found = reservations.find(address);
  const auto mapped = mappings.lower_bound(address);
  if (found == reservations.end() || found->second != bytes) return kInvalid;
  if (mapped != mappings.end() && mapped->first < address + bytes) return kInvalid;
  munmap(reinterpret_cast<void*>(address), bytes);
  reservations.erase(found);
  return kOk;
}
FAKE Result cuMemMap(Address address, size_t bytes, size_t offset, AllocationHandle handle,
                     unsigned long long) {
  FAKE_CALL("cuMemMap");
  const std::lock_guard lock(mutex);
  auto reservation = reservations.upper_bound(address);
  if (reservation == reservations.begin()) return kInvalid;
  --reservation;
  const auto found = handles.find(handle);
  if (found == handles.end() || offset != 0 || bytes % kGranularity != 0 ||
      bytes > found->second.memory->bytes ||
      address + bytes > reservation->first + reservation->second) {
    return kInvalid;
  }
  void* at = mmap(reinterpret_cast<void*>(address), bytes, PROT_NONE, MAP_SHARED | MAP_FIXED,
                  found->second.memory->file, 0);
  if (at == MAP_FAILED) return kOutOfMemory;
  mappings[address] = {.bytes = bytes, .memory = found->second.memory, .number = handle};
  return kOk;
}
FAKE Result cuMemUnmap(Address address, size_t bytes) {
  FAKE_CALL("cuMemUnmap");
  const std::lock_guard lock(mutex);
  const auto found = mappings.find(address);
  if (found == mappings.end() || found->second.bytes != bytes) return kInvalid;
  mmap(reinterpret_cast<void*>(address), bytes, PROT_NONE,
       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  mappings.erase(found);
  return kOk;
}
FAKE Result cuMemSetAccess(Address address, size_t bytes, const Access* access, size_t count) {
  FAKE_CALL("cuMemSetAccess");
  const std::lock_guard lock(mutex);
  const auto found = mappings.find(address);
  if (found == mappings.end() || found->second.bytes != bytes) return kInvalid;
  for (size_t i = 0; i < count; i++) {
    const int gpu = visible(access[i].location.ordinal);
    if (gpu < 0) return kInvalidDevice;
    if (gpu != found->second.memory->gpu && wanted("peers", 1) == 0) return 217;
    found->second.accessible |= 1U << gpu;
  }
  mprotect(reinterpret_cast<void*>(address), bytes, PROT_READ | PROT_WRITE);
  return kOk;
}
FAKE Result cuMemExportToShareableHandle(void* out, AllocationHandle handle, int type,
                                         unsigned long long) {
  FAKE_CALL("cuMemExportToShareableHandle");
  const std::lock_guard lock(mutex);
  const auto found = handles.find(handle);
  if (found == handles.end() || (found->second.memory->handle_types & type) == 0) return kInvalid;
  const int file = fcntl(found->second.memory->file, F_DUPFD_CLOEXEC, 0);
  std::memcpy(out, &file, sizeof file);
  return kOk;
}
FAKE Result cuMemImportFromShareableHandle(AllocationHandle* out, void* file, int) {
  FAKE_CALL("cuMemImportFromShareableHandle");
  const std::lock_guard lock(mutex);
  const Memory memory =
      adopt(fcntl(static_cast<int>(reinterpret_cast<uintptr_t>(file)), F_DUPFD_CLOEXEC, 0));
  if (memory == nullptr) return kInvalid;
  *out = ++last_number;
  handles[*out] = {memory, 1};
  return kOk;
}
FAKE Result cuMemRetainAllocationHandle(AllocationHandle* out, void* at) {
  FAKE_CALL("cuMemRetainAllocationHandle");
  const std::lock_guard lock(mutex);
  const auto found = mapping_at(reinterpret_cast<Address>(at));
  if (found == mappings.end() || found->second.kind != Kind::kMapped) return kInvalid;
  *out = found->second.number;
  handles.try_emplace(*out, Handle{found->second.memory, 0}).first->second.references++;
  return kOk;
}

FAKE Result cuMemPoolCreate(PoolHandle* out, const int* properties) {
  FAKE_CALL("cuMemPoolCreate");
  constexpr uint64_t kBytes = 64 << 20;
  const auto pool = new Pool;
  pool->memory = make(kBytes, current_gpu(), properties[1]);
  pool->accessible = 1U << current_gpu();
  *out = reinterpret_cast<PoolHandle>(pool);
  return kOk;
}
FAKE Result cuMemAllocFromPoolAsync(Address* out, size_t bytes, PoolHandle handle, StreamHandle) {
  FAKE_CALL("cuMemAllocFromPoolAsync");
  const std::lock_guard lock(mutex);
  auto& pool = *reinterpret_cast<Pool*>(handle);
  const uint64_t rounded = (bytes + 4095) / 4096 * 4096;
  if (pool.used + rounded > pool.memory->bytes) return kOutOfMemory;
  *out = map_anywhere(pool.memory, rounded, pool.used);
  mappings[*out] = {.bytes = rounded,
                    .memory = pool.memory,
                    .kind = Kind::kPooled,
                    .accessible = pool.accessible,
                    .pool = handle,
                    // What cuMemPoolExportPointer gives.
                    .number = pool.used};
  pool.used += rounded;
  return kOk;
}
FAKE Result cuMemPoolSetAccess(PoolHandle handle, const Access* access, size_t) {
  FAKE_CALL("cuMemPoolSetAccess");
  auto& pool = *reinterpret_cast<Pool*>(handle);
  pool.accessible |= 1U << visible(access->location.ordinal);
  return kOk;
}
FAKE Result cuMemPoolExportToShareableHandle(void* out, PoolHandle handle, int type,
                                             unsigned long long) {
  FAKE_CALL("cuMemPoolExportToShareableHandle");
  const auto& pool = *reinterpret_cast<Pool*>(handle);
  if ((pool.memory->handle_types & type) == 0) return kInvalid;
  const int file = fcntl(pool.memory->file, F_DUPFD_CLOEXEC, 0);
  std::memcpy(out, &file, sizeof file);
  return kOk;
}
FAKE Result cuMemPoolImportFromShareableHandle(PoolHandle* out, void* file, int,
                                               unsigned long long) {
  FAKE_CALL("cuMemPoolImportFromShareableHandle");
  const Memory memory =
      adopt(fcntl(static_cast<int>(reinterpret_cast<uintptr_t>(file)), F_DUPFD_CLOEXEC, 0));
  if (memory == nullptr) return kInvalid;
  const auto pool = new Pool;
  pool->memory = memory;
  pool->imported = true;
  *out = reinterpret_cast<PoolHandle>(pool);
  return kOk;
}
FAKE Result cuMemPoolExportPointer(PoolPointer* out, Address address) {
  FAKE_CALL("cuMemPoolExportPointer");
  const std::lock_guard lock(mutex);
  const auto found = mappings.find(address);
  if (found == mappings.end() || found->second.kind != Kind::kPooled) return kInvalid;
  *out = {};
  const uint64_t words[] = {found->second.number, found->second.bytes};
  std::memcpy(out->bytes, words, sizeof words);
  return kOk;
}
FAKE Result cuMemPoolImportPointer(Address* out, PoolHandle handle, PoolPointer* pointer) {
  FAKE_CALL("cuMemPoolImportPointer");
  const std::lock_guard lock(mutex);
  const auto& pool = *reinterpret_cast<Pool*>(handle);
  uint64_t words[2];
  std::memcpy(words, pointer->bytes, sizeof words);
  if (!pool.imported || words[0] + words[1] > pool.memory->bytes) return kInvalid;
  *out = map_anywhere(pool.memory, words[1], words[0]);
  mappings[*out] = {.bytes = words[1],
                    .memory = pool.memory,
                    .kind = Kind::kPooled,
                    .accessible = pool.accessible,
                    .pool = handle,
                    .number = words[0],
                    .imported = true};
  return kOk;
}
FAKE Result cuMemPoolDestroy(PoolHandle handle) {
  FAKE_CALL("cuMemPoolDestroy");
  delete reinterpret_cast<Pool*>(handle);
  return kOk;
}
