// Mooncake's library in this process: loaded once per path, never unloaded.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "api.h"

namespace kvx::mooncake {

// The two faces by which an engine can be driven.
enum class Face { kCxxSymbols, kCFunctions };

struct Library {
  std::string path;
  Face face = Face::kCxxSymbols;
  // Sonames of system libraries that are missing and were replaced by libraries whose functions all
  // fail.
  std::vector<std::string> stand_ins;
  // What it can register: "cpu", and "cuda" or "hip" when it was built for those GPUs.
  std::vector<std::string> memory_kinds = {"cpu"};
  std::unique_ptr<Api> api;
  int* log_level = nullptr;  // glog's FLAGS_minloglevel, when the library has one
};

// Loads it, or answers the one that is loaded. `needs_all`: RDMA or a metadata server will be used,
// so that no system library may be replaced. Throws DriverError("ERR_KVX_BACKEND_UNAVAILABLE") with
// the reason.
Library& load_library(const std::string& path, bool needs_all);

// Mooncake logs hundreds of lines for one failed batch, and each engine it makes sets the level
// anew. Only what ends the process is let through, unless MC_LOG_LEVEL asks for more.
void quiet(const Library& library);

}  // namespace kvx::mooncake
