// The functions that kvx needs of a GPU's driver, as a table of pointers: CUDA fills one (cuda.h).
// Only what is called is here. Types and numbers are those of CUDA's driver API.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kvx::gpu {

using Result = int;
using DeviceHandle = int;
using Address = unsigned long long;
using AllocationHandle = unsigned long long;  // physical memory without an address
using ContextHandle = struct ContextTag*;
using ModuleHandle = struct ModuleTag*;
using FunctionHandle = struct FunctionTag*;
using StreamHandle = struct StreamTag*;
using EventHandle = struct EventTag*;
using PoolHandle = struct PoolTag*;

inline constexpr Result kOk = 0;
inline constexpr Result kInvalidValue = 1;
inline constexpr Result kNotReady = 600;
inline constexpr Result kHostMemoryRegistered = 712;

inline constexpr int kFileDescriptor = 1;  // of handle types: a POSIX file descriptor

struct Location {
  int type = 1;  // a device
  int ordinal = 0;
};
struct AllocationProperties {
  int type = 1;  // pinned
  int handle_types = kFileDescriptor;
  Location location;
  void* windows = nullptr;
  uint8_t compression = 0, rdma = 0;
  uint16_t usage = 0;
  uint8_t reserved[4] = {};
};
struct Access {
  Location location;
  int flags = 3;  // read and write
};
struct LegacyHandle {
  uint8_t bytes[64];
};
struct PoolPointer {
  uint8_t bytes[64];
};
struct UuidBytes {
  uint8_t bytes[16];
};
static_assert(sizeof(AllocationProperties) == 32 && sizeof(Access) == 12);

// Attributes of a device.
inline constexpr int kMultiprocessors = 16, kComputeMajor = 75, kComputeMinor = 76,
                     kVirtualMemory = 102, kFileHandles = 103, kMps = 133;

// Attributes of a pointer, with the type that the driver writes.
inline constexpr int kPointerType = 2;          // int: 1 host, 2 device
inline constexpr int kPointerBuffer = 7;        // uint64_t: unique in the process
inline constexpr int kPointerOrdinal = 9;       // int
inline constexpr int kPointerLegacy = 10;       // int
inline constexpr int kPointerHandleTypes = 14;  // uint64_t, although the manual's enum is an int
inline constexpr int kPointerPool = 17;         // PoolHandle

// CUmemcpyAttributes: how a batch of copies reads its sources.
struct CopyAttributes {
  int order = 1;  // as the stream says
  struct {
    int type = 0, id = 0;
  } source_hint, destination_hint;  // of managed memory only
  unsigned flags = 0;
};

struct Api {
  Result (*init)(unsigned flags);
  Result (*driver_version)(int*);
  Result (*error_name)(Result, const char**);

  Result (*device_count)(int*);
  Result (*device_get)(DeviceHandle*, int ordinal);
  Result (*device_name)(char*, int bytes, DeviceHandle);
  Result (*device_uuid)(UuidBytes*, DeviceHandle);
  Result (*device_attribute)(int*, int attribute, DeviceHandle);
  Result (*device_can_access)(int*, DeviceHandle, DeviceHandle peer);

  Result (*context_retain)(ContextHandle*, DeviceHandle);
  Result (*context_release)(DeviceHandle);
  Result (*context_push)(ContextHandle);
  Result (*context_pop)(ContextHandle*);

  Result (*pointer_attribute)(void*, int attribute, Address);
  Result (*address_range)(Address* base, size_t* bytes, Address);
  Result (*memory_allocate)(Address*, size_t);
  Result (*memory_free)(Address);
  Result (*host_allocate)(void**, size_t, unsigned flags);
  Result (*host_free)(void*);
  Result (*host_register)(void*, size_t, unsigned flags);
  Result (*host_unregister)(void*);
  Result (*host_device_pointer)(Address*, void*, unsigned flags);
  Result (*copy_async)(Address to, Address from, size_t, StreamHandle);
  // Copies in any order. Null in drivers before CUDA 12.8.
  Result (*copy_batch_async)(Address* to, Address* from, size_t* bytes, size_t count,
                             CopyAttributes*, size_t* first_of_attributes, size_t attributes,
                             size_t* failed, StreamHandle);
  Result (*set_async)(Address, unsigned char, size_t, StreamHandle);

  Result (*legacy_export)(LegacyHandle*, Address);
  Result (*legacy_open)(Address*, LegacyHandle, unsigned flags);
  Result (*legacy_close)(Address);

  Result (*granularity)(size_t*, const AllocationProperties*, int option);
  Result (*create)(AllocationHandle*, size_t, const AllocationProperties*, unsigned long long);
  Result (*release)(AllocationHandle);
  Result (*reserve)(Address*, size_t, size_t alignment, Address, unsigned long long);
  Result (*unreserve)(Address, size_t);
  Result (*map)(Address, size_t, size_t offset, AllocationHandle, unsigned long long);
  Result (*unmap)(Address, size_t);
  Result (*set_access)(Address, size_t, const Access*, size_t count);
  Result (*export_handle)(void*, AllocationHandle, int type, unsigned long long);
  Result (*import_handle)(AllocationHandle*, void*, int type);
  Result (*retain_handle)(AllocationHandle*, void*);

  Result (*pool_set_access)(PoolHandle, const Access*, size_t count);
  Result (*pool_export)(void*, PoolHandle, int type, unsigned long long);
  Result (*pool_import)(PoolHandle*, void*, int type, unsigned long long);
  Result (*pool_export_pointer)(PoolPointer*, Address);
  Result (*pool_import_pointer)(Address*, PoolHandle, PoolPointer*);
  Result (*pool_destroy)(PoolHandle);

  Result (*stream_create)(StreamHandle*, unsigned flags);
  Result (*stream_destroy)(StreamHandle);
  Result (*stream_query)(StreamHandle);
  Result (*stream_wait)(StreamHandle, EventHandle, unsigned flags);
  Result (*event_create)(EventHandle*, unsigned flags);
  Result (*event_destroy)(EventHandle);
  Result (*event_record)(EventHandle, StreamHandle);
  Result (*event_query)(EventHandle);

  Result (*module_load)(ModuleHandle*, const void* image, unsigned, int* options, void** values);
  Result (*module_unload)(ModuleHandle);
  Result (*module_function)(FunctionHandle*, ModuleHandle, const char* name);
  Result (*launch)(FunctionHandle, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                   unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_bytes,
                   StreamHandle, void** parameters, void** extra);
};

}  // namespace kvx::gpu
