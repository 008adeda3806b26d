// Memory in a memory file, so that another process of the same host can map it: kvx's own, or that
// of such a process.
#pragma once

#include <cstdint>
#include <memory>

#include "kvx/napi.h"

namespace kvx {

// Mapped from construction to destruction; who still reads through a view holds it. `release` gives
// the pages of an own file back to the system at once, and what is read afterwards is zero; of
// another process's file it only closes the descriptor.
class MappedFile {
 public:
  static constexpr uint64_t kTypeTag = 0x6b76782d6d656d31;
  static constexpr const char* kTypeName = "memory allocated by kvx";

  // Zeroed, page-aligned, not inherited by forks, sealed against shrinking and growing (a peer that
  // mapped it can rely on its size). Throws std::system_error.
  explicit MappedFile(uint64_t bytes);
  // The first `bytes` of a memory file that another process made. `file` is duplicated. Not
  // inherited by forks either. Throws std::system_error, or std::invalid_argument when the file is
  // no memory file that is sealed against shrinking, or is too short.
  MappedFile(int file, uint64_t bytes);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  void release() noexcept;
  bool released() const { return fd_ < 0; }

  uint8_t* data() const { return data_; }
  uint64_t bytes() const { return bytes_; }
  int fd() const { return fd_; }

 private:
  void map();

  uint64_t bytes_;
  uint64_t mapped_;
  bool own_;
  int fd_ = -1;
  uint8_t* data_ = nullptr;
};

void export_memory(Napi::Env env, Napi::Object exports);

}  // namespace kvx
