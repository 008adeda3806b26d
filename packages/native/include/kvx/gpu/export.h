// How a range of GPU memory can be shared: found out from its address.
#pragma once

#include <fcntl.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <map>
#include <random>
#include <span>

#include "kvx/gpu/context.h"
#include "kvx/gpu/share.h"

namespace kvx::gpu {

namespace detail {

// Random for each process. A fork would copy it, but a forked child cannot use CUDA.
inline uint64_t process_number() {
  static const uint64_t number = [] {
    std::random_device random;
    return (uint64_t{random()} << 32) | random();
  }();
  return number;
}

inline std::array<uint8_t, 16> part_id(uint64_t number) {
  const uint64_t words[] = {process_number(), number};
  std::array<uint8_t, 16> id;
  std::memcpy(id.data(), words, id.size());
  return id;
}

[[noreturn]] inline void refuse(const std::string& reason) {
  throw DriverError("ERR_KVX_MEMORY", reason);
}

// The allocations made by cuMemCreate that are mapped under a range. The driver does not say how
// far each reaches, so that it is asked at every step of the granularity.
class MappedParts {
 public:
  MappedParts(Context& context, Address address, uint64_t bytes) : context_(context) {
    const AllocationProperties properties{.location = context.location()};
    size_t step = 0;
    context.check(context.api().granularity(&step, &properties, 0), "cuMemGetAllocationGranularity",
                  "ERR_KVX_MEMORY");
    const Address first = address / step * step;
    const Address end = (address + bytes + step - 1) / step * step;
    Address begin = first;
    AllocationHandle at = retain(first);
    if (at == 0) refuse("No memory is mapped there.");
    while (begin >= step && retain(begin - step) == at) begin -= step;
    begin_ = begin;
    parts_.push_back({at, first + step - begin});
    Address next = first + step;
    for (;; next += step) {
      const AllocationHandle handle = retain(next);
      if (handle == parts_.back().handle) {
        parts_.back().bytes += step;
        continue;
      }
      if (next >= end) break;
      if (handle == 0) {
        refuse("The range of " + std::to_string(bytes) + " bytes has a hole after " +
               std::to_string(next - address) + " bytes: no memory is mapped there.");
      }
      parts_.push_back({handle, step});
      if (parts_.size() > kMaxParts) {
        refuse("The range of " + std::to_string(bytes) + " bytes lies in more than " +
               std::to_string(kMaxParts) +
               " separate allocations. Allocate the cache in one piece: with torch, without "
               "expandable_segments.");
      }
    }
  }
  ~MappedParts() {
    // Every successful retain is one reference.
    for (const auto& [handle, count] : held_) {
      for (uint64_t i = 0; i < count; i++) context_.api().release(handle);
    }
  }
  MappedParts(const MappedParts&) = delete;
  MappedParts& operator=(const MappedParts&) = delete;

  struct Part {
    AllocationHandle handle;
    uint64_t bytes;
  };
  Address begin() const { return begin_; }
  const std::vector<Part>& parts() const { return parts_; }

 private:
  AllocationHandle retain(Address address) {
    AllocationHandle handle = 0;
    if (context_.api().retain_handle(&handle, reinterpret_cast<void*>(address)) != kOk) return 0;
    held_[handle]++;
    return handle;
  }

  Context& context_;
  Address begin_ = 0;
  std::vector<Part> parts_;
  std::map<AllocationHandle, uint64_t> held_;
};

inline Fd file_of(Context& context, AllocationHandle handle) {
  long long number = -1;  // the driver writes an int
  const Result result = context.api().export_handle(&number, handle, kFileDescriptor, 0);
  if (result != kOk) {
    refuse(
        "This GPU memory was made by cuMemCreate without a file descriptor as its handle type, "
        "so that no other process can map it (" +
        failure_text(context.api(), "cuMemExportToShareableHandle", result) +
        "). Allocate it with cudaMalloc, or with requestedHandleTypes = "
        "CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR.");
  }
  return Fd(static_cast<int>(number & 0xffffffff));
}

inline Shared share_mapped(Context& context, Address address, uint64_t bytes) {
  const MappedParts mapped(context, address, bytes);
  Shared shared{.kind = ShareKind::kFile,
                .gpu = context.uuid(),
                .offset = address - mapped.begin(),
                .bytes = bytes,
                .parts = {}};
  for (const auto& [handle, size] : mapped.parts()) {
    SharedPart& part = shared.parts.emplace_back();
    part.id = part_id(handle);
    part.bytes = size;
    part.file = file_of(context, handle);
  }
  return shared;
}

// `base` and `size` of the allocation, as cuMemGetAddressRange gives them.
inline Shared share_whole(Context& context, ShareKind kind, Address address, uint64_t bytes) {
  Address base = 0;
  size_t size = 0;
  context.check(context.api().address_range(&base, &size, address), "cuMemGetAddressRange",
                "ERR_KVX_MEMORY");
  if (bytes > size - (address - base)) {
    refuse("The range of " + std::to_string(bytes) +
           " bytes reaches beyond its allocation, which " + "holds " +
           std::to_string(size - (address - base)) + " from there.");
  }
  uint64_t buffer = 0;
  context.check(context.api().pointer_attribute(&buffer, kPointerBuffer, base),
                "cuPointerGetAttribute", "ERR_KVX_MEMORY");
  Shared shared{
      .kind = kind, .gpu = context.uuid(), .offset = address - base, .bytes = bytes, .parts = {}};
  SharedPart& part = shared.parts.emplace_back();
  part.id = part_id(buffer);
  part.bytes = size;
  return shared;
}

inline Shared share_legacy(Context& context, Address address, uint64_t bytes) {
  Shared shared = share_whole(context, ShareKind::kLegacy, address, bytes);
  LegacyHandle handle{};
  context.check(context.api().legacy_export(&handle, address - shared.offset), "cuIpcGetMemHandle",
                "ERR_KVX_MEMORY");
  std::memcpy(shared.parts[0].handle.data(), handle.bytes, sizeof handle.bytes);
  return shared;
}

inline Shared share_pooled(Context& context, PoolHandle pool, Address address, uint64_t bytes) {
  Shared shared = share_whole(context, ShareKind::kPool, address, bytes);
  int number = -1;
  const Result result = context.api().pool_export(&number, pool, kFileDescriptor, 0);
  if (result != kOk) {
    refuse(
        "This GPU memory comes from a pool that cannot be shared, as the default pool of "
        "cudaMallocAsync and torch's backend:cudaMallocAsync (" +
        failure_text(context.api(), "cuMemPoolExportToShareableHandle", result) +
        "). Allocate it with cudaMalloc, or from a pool made with a file descriptor as its "
        "handle type.");
  }
  shared.parts[0].file = Fd(number);
  PoolPointer pointer{};
  context.check(context.api().pool_export_pointer(&pointer, address - shared.offset),
                "cuMemPoolExportPointer", "ERR_KVX_MEMORY");
  std::memcpy(shared.parts[0].handle.data(), pointer.bytes, sizeof pointer.bytes);
  return shared;
}

}  // namespace detail

// What another process needs to reach [address, address + bytes), which must lie on the context's
// GPU. Throws DriverError("ERR_KVX_MEMORY") with the reason why it cannot be shared.
inline Shared share(Context& context, Address address, uint64_t bytes) {
  const Context::Slow current(context);
  const Api& api = context.api();
  int type = 0, ordinal = -1;
  if (api.pointer_attribute(&type, kPointerType, address) != kOk || type != 2) {
    detail::refuse("The address is not one of GPU memory that CUDA knows in this process.");
  }
  if (api.pointer_attribute(&ordinal, kPointerOrdinal, address) != kOk ||
      ordinal != context.ordinal()) {
    detail::refuse("The memory is on GPU " + std::to_string(ordinal) + ", not on GPU " +
                   std::to_string(context.ordinal()) + ", which `device` names.");
  }
  // Some drivers write a byte of these, and of the handle types always eight.
  uint64_t legacy = 0;
  if (api.pointer_attribute(&legacy, kPointerLegacy, address) == kOk && (legacy & 0xff) != 0) {
    return detail::share_legacy(context, address, bytes);
  }
  PoolHandle pool = nullptr;
  if (api.pointer_attribute(&pool, kPointerPool, address) == kOk && pool != nullptr) {
    return detail::share_pooled(context, pool, address, bytes);
  }
  return detail::share_mapped(context, address, bytes);
}

// Of an allocation of cuMemCreate whose descriptor the host hands over; it is duplicated. Needs no
// context. Throws DriverError("ERR_KVX_MEMORY").
inline Shared share_file(const Uuid& gpu, int file, uint64_t offset, uint64_t bytes) {
  Shared shared{
      .kind = ShareKind::kFile, .gpu = gpu, .offset = offset, .bytes = bytes, .parts = {}};
  SharedPart& part = shared.parts.emplace_back();
  static std::atomic<uint64_t> last{0};
  part.id = detail::part_id(~last++);
  // The range that is used, rounded up to what every GPU maps in.
  constexpr uint64_t kStep = 2 << 20;
  part.bytes = (offset + bytes + kStep - 1) / kStep * kStep;
  part.file = Fd(fcntl(file, F_DUPFD_CLOEXEC, 0));
  if (!part.file) {
    detail::refuse(std::string("The file descriptor of the GPU memory cannot be duplicated: ") +
                   std::strerror(errno) + ".");
  }
  return shared;
}

// Of an allocation of cudaMalloc whose handle of 64 bytes the host hands over. Needs no context.
inline Shared share_handle(const Uuid& gpu, std::span<const uint8_t, 64> handle, uint64_t offset,
                           uint64_t bytes) {
  Shared shared{
      .kind = ShareKind::kLegacy, .gpu = gpu, .offset = offset, .bytes = bytes, .parts = {}};
  SharedPart& part = shared.parts.emplace_back();
  std::memcpy(part.handle.data(), handle.data(), handle.size());
  part.bytes = offset + bytes;
  return shared;
}

}  // namespace kvx::gpu
