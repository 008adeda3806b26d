// Memory that kvx allocates: a memory file, so that a process of the same host can map it.
#pragma once

#include <cstdint>
#include <memory>

#include "kvx/napi.h"

namespace kvx {

// Mapped from construction to destruction; who still reads through a view holds it. `release` gives
// the pages back to the system at once, and what is read afterwards is zero.
class MappedFile {
 public:
  static constexpr uint64_t kTypeTag = 0x6b76782d6d656d31;
  static constexpr const char* kTypeName = "memory allocated by kvx";

  // Zeroed, page-aligned, not inherited by forks, sealed against shrinking and growing (a peer that
  // mapped it can rely on its size). Throws std::system_error.
  explicit MappedFile(uint64_t bytes);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  void release() noexcept;
  bool released() const { return fd_ < 0; }

  uint8_t* data() const { return data_; }
  uint64_t bytes() const { return bytes_; }
  int fd() const { return fd_; }

 private:
  uint64_t bytes_;
  uint64_t mapped_;
  int fd_ = -1;
  uint8_t* data_ = nullptr;
};

void export_memory(Napi::Env env, Napi::Object exports);

}  // namespace kvx
