#include "address.h"

#include <limits.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <fstream>

namespace kvx::shm {

namespace {

constexpr const char* kFormat = "kvx-shm/1";

std::string boot_id() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string id;
  if (!std::getline(file, id) || id.empty()) {
    throw DriverError("ERR_KVX_BACKEND_UNAVAILABLE",
                      "The boot id of this machine cannot be read from /proc.");
  }
  return id;
}

std::string pid_namespace() {
  std::array<char, PATH_MAX> target;
  const ssize_t length = readlink("/proc/self/ns/pid", target.data(), target.size());
  if (length <= 0) {
    throw DriverError("ERR_KVX_BACKEND_UNAVAILABLE",
                      "The PID namespace of this process cannot be read from /proc.");
  }
  return {target.data(), static_cast<size_t>(length)};
}

}  // namespace

Address address_here(const Generation& generation) {
  return {boot_id(), pid_namespace(), "kvx-shm-" + generation, generation};
}

Bytes encode(const Address& address) {
  const std::string text = std::string(kFormat) + "\n" + address.boot_id + "\n" +
                           address.pid_namespace + "\n" + address.socket + "\n" +
                           address.generation;
  return {text.begin(), text.end()};
}

Address decode(const Bytes& bytes) {
  std::array<std::string, 5> lines;
  size_t line = 0;
  for (const uint8_t byte : bytes) {
    if (byte == '\n') {
      if (++line == lines.size()) break;
    } else if (line < lines.size() && lines[line].size() < 100) {
      lines[line].push_back(static_cast<char>(byte));
    }
  }
  const bool complete = std::none_of(lines.begin(), lines.end(),
                                     [](const std::string& text) { return text.empty(); });
  if (line != lines.size() - 1 || lines[0] != kFormat || !complete) {
    throw DriverError("ERR_KVX_CONNECT_FAILED", "The peer's address is not one of @kvx/shm.");
  }
  return {lines[1], lines[2], lines[3], lines[4]};
}

}  // namespace kvx::shm
