// What another process needs to reach a range of GPU memory.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "kvx/driver.h"
#include "kvx/fd.h"
#include "kvx/gpu/devices.h"

namespace kvx::gpu {

enum class ShareKind : uint8_t {
  kLegacy = 1,  // cuMemAlloc, cudaMalloc: a handle of 64 bytes, plain data
  kFile = 2,    // cuMemCreate: a file descriptor
  kPool = 3,    // cudaMallocAsync from a pool made for it: a descriptor of the pool, and 64 bytes
};

// One allocation that a shared range lies in.
struct SharedPart {
  std::array<uint8_t, 16> id{};  // of kFile and kPool: equal only for one allocation of one process
  std::array<uint8_t, 64> handle{};  // of kLegacy and kPool
  uint64_t bytes = 0;                // of the allocation, of which all is mapped
  Fd file;                           // of kFile and kPool; travels beside
};

// A range of `bytes` that begins `offset` bytes into its parts, which lie one after another: one
// part, or several of kFile (torch's expandable segments).
struct Shared {
  ShareKind kind = ShareKind::kLegacy;
  Uuid gpu{};
  uint64_t offset = 0;
  uint64_t bytes = 0;
  std::vector<SharedPart> parts;

  // How many descriptors travel beside: one per part, or none.
  size_t files() const { return kind == ShareKind::kLegacy ? 0 : parts.size(); }
};

// Linux passes 253 descriptors in one message.
inline constexpr size_t kMaxParts = 250;

namespace detail {

inline void put(Bytes& out, const void* data, size_t bytes) {
  const auto* from = static_cast<const uint8_t*>(data);
  out.insert(out.end(), from, from + bytes);
}

class Reader {
 public:
  explicit Reader(std::span<const uint8_t> bytes) : rest_(bytes) {}
  void take(void* to, size_t bytes) {
    if (rest_.size() < bytes) malformed();
    std::memcpy(to, rest_.data(), bytes);
    rest_ = rest_.subspan(bytes);
  }
  bool empty() const { return rest_.empty(); }
  [[noreturn]] static void malformed() {
    throw DriverError("ERR_KVX_CONNECT_FAILED",
                      "The peer's description of its GPU memory is malformed.");
  }

 private:
  std::span<const uint8_t> rest_;
};

}  // namespace detail

// Everything but the descriptors.
inline Bytes encode(const Shared& shared) {
  Bytes out;
  const auto count = static_cast<uint8_t>(shared.parts.size());
  detail::put(out, &shared.kind, 1);
  detail::put(out, &count, 1);
  detail::put(out, shared.gpu.data(), shared.gpu.size());
  detail::put(out, &shared.offset, 8);
  detail::put(out, &shared.bytes, 8);
  for (const SharedPart& part : shared.parts) {
    detail::put(out, part.id.data(), part.id.size());
    detail::put(out, &part.bytes, 8);
    if (shared.kind != ShareKind::kFile) detail::put(out, part.handle.data(), part.handle.size());
  }
  return out;
}

// Throws DriverError("ERR_KVX_CONNECT_FAILED") for anything that encode did not make.
inline Shared decode(std::span<const uint8_t> bytes) {
  detail::Reader reader(bytes);
  Shared shared;
  uint8_t kind = 0, count = 0;
  reader.take(&kind, 1);
  reader.take(&count, 1);
  shared.kind = static_cast<ShareKind>(kind);
  const bool files = shared.kind == ShareKind::kFile;
  if (kind < 1 || kind > 3 || count == 0 || count > (files ? kMaxParts : 1)) reader.malformed();
  reader.take(shared.gpu.data(), shared.gpu.size());
  reader.take(&shared.offset, 8);
  reader.take(&shared.bytes, 8);
  uint64_t room = 0;
  for (uint8_t i = 0; i < count; i++) {
    SharedPart& part = shared.parts.emplace_back();
    reader.take(part.id.data(), part.id.size());
    reader.take(&part.bytes, 8);
    if (!files) reader.take(part.handle.data(), part.handle.size());
    if (__builtin_add_overflow(room, part.bytes, &room)) reader.malformed();
  }
  if (!reader.empty() || shared.bytes == 0 || shared.offset > room ||
      shared.bytes > room - shared.offset) {
    reader.malformed();
  }
  return shared;
}

}  // namespace kvx::gpu
