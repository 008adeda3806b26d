// A second process, which writes into memory that the first shares.
#pragma once

#include <string>

#include "device_memory.h"

// What the second process does: for each message, maps what is shared, copies the pattern of that
// seed into it by a kernel of its own GPU, and answers "" or why it could not.
int writer(int socket);

class Writer {
 public:
  explicit Writer(int gpu);  // ordinal
  ~Writer();
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

  std::string write_pattern(const gpu::Shared& shared, uint64_t seed);
  // Into host memory: a memory file.
  std::string write_pattern(int file, uint64_t bytes, uint64_t seed);

 private:
  std::string ask(const Bytes& shared, const std::vector<int>& files, uint64_t seed,
                  uint64_t host_bytes);

  const int gpu_;
  int socket_ = -1;
  pid_t process_ = -1;
};
