#include "library.h"

#include <dlfcn.h>

#include <cstdlib>
#include <map>
#include <mutex>

#include "elf.h"

namespace kvx::mooncake {
namespace {

[[noreturn]] void unavailable(const std::string& message) {
  throw DriverError("ERR_KVX_BACKEND_UNAVAILABLE", message);
}

// Mooncake reads its environment when it is loaded or when an engine is made; so this comes before
// both.
void prepare_environment() {
  // One connection for every request otherwise: slow, the ports run out, and destroying a stalled
  // engine takes a minute instead of 68 ms.
  setenv("MC_TCP_ENABLE_CONNECTION_POOL", "1", 1);
  // The driver never has more under way (kMostInFlight).
  setenv("MC_TCP_MAX_QUEUED_TRANSFERS_PER_PEER", "1024", 1);
  // kvx has deadlines of its own. With Mooncake's, a connection would be closed on the writer's
  // side while bytes of it still wait in a stopped target, and FAILED would not mean that nothing
  // can land any more.
  setenv("MC_TCP_STATUS_TIMEOUT_SEC", "100000000", 1);
  setenv("MC_TCP_PROGRESS_TIMEOUT_SEC", "100000000", 1);
}

// Every function fails: what is called on a machine without RDMA devices and without a metadata
// server.
struct Replaceable {
  const char* soname;
  const char* package;
  std::vector<std::string> functions;
  int32_t result;
};

const std::vector<Replaceable>& replaceable() {
  static const auto& list = *new std::vector<Replaceable>{
      // A null list of devices. Whatever else is called with a null context answers 0.
      {"libibverbs.so.1",
       "libibverbs1",
       {"ibv_get_device_list", "ibv_free_device_list", "ibv_fork_init", "ibv_get_device_name"},
       0},
      // Asked only for a device that libibverbs has found.
      {"libmlx5.so.1", "ibverbs-providers", {}, 0},
      {"libcurl.so.4",
       "libcurl4",
       {"curl_global_init", "curl_easy_init", "curl_easy_cleanup", "curl_easy_setopt",
        "curl_easy_perform", "curl_easy_reset", "curl_easy_escape", "curl_easy_getinfo",
        "curl_easy_strerror", "curl_free", "curl_slist_append", "curl_slist_free_all"},
       0},
  };
  return list;
}

bool is_needed(const ElfFile& file, const std::string& soname) {
  for (const std::string& name : file.needed()) {
    if (name == soname) return true;
  }
  return false;
}

// By the run-time that it was linked with: without one it copies with memcpy, which ends the
// process at memory of a GPU.
std::vector<std::string> memory_kinds_of(const ElfFile& file) {
  std::vector<std::string> kinds = {"cpu"};
  for (const std::string& name : file.needed()) {
    if (name.starts_with("libcudart.so")) kinds.push_back("cuda");
    if (name.starts_with("libamdhip64.so")) kinds.push_back("hip");
  }
  return kinds;
}

// What must be loaded before the library, so that the loader takes it instead of searching.
void load_companions(const ElfFile& file, bool needs_all, std::vector<std::string>& stand_ins) {
  // The real one is a Go runtime with signal handlers, five threads and 15 MB. Metadata in etcd is
  // refused before it could be asked for.
  if (is_needed(file, "libetcd_wrapper.so")) {
    static void* const etcd =
        load_image(make_stand_in({"libetcd_wrapper.so",
                                  {},
                                  {},
                                  {"NewEtcdClient", "EtcdPutWrapper", "EtcdGetWrapper",
                                   "EtcdDeleteWrapper", "EtcdCloseWrapper"},
                                  -1}),
                   "kvx-etcd");
    (void)etcd;
  }
  for (const Replaceable& one : replaceable()) {
    if (!is_needed(file, one.soname) || dlopen(one.soname, RTLD_LAZY | RTLD_LOCAL)) continue;
    if (needs_all) {
      unavailable(std::string(one.soname) + " is missing (Debian: apt install " + one.package +
                  "). Only TCP without a metadata server works without it.");
    }
    load_image(make_stand_in({one.soname, {}, {}, one.functions, one.result}), "kvx-stand-in");
    stand_ins.push_back(one.soname);
  }
  if (is_needed(file, "libnuma.so.1") && !dlopen("libnuma.so.1", RTLD_LAZY | RTLD_LOCAL)) {
    unavailable("libnuma.so.1 is missing (Debian: apt install libnuma1).");
  }
}

std::string explain(const std::string& reason) {
  struct Hint {
    const char* soname;
    const char* advice;
  };
  static constexpr Hint kHints[] = {
      {"libcuda.so.1", "it comes with NVIDIA's driver; without one use the flavour non-cuda"},
      {"libcudart.so", "it comes with the CUDA runtime; without a GPU use the flavour non-cuda"},
      {"libamdhip64", "it comes with ROCm; without a GPU use the flavour non-cuda"},
      {"libhsa-runtime64", "it comes with ROCm; without a GPU use the flavour non-cuda"},
      {"libnuma.so.1", "Debian: apt install libnuma1"},
      {"libibverbs.so.1", "Debian: apt install libibverbs1"},
      {"libmlx5.so.1", "Debian: apt install ibverbs-providers"},
      {"libcurl.so.4", "Debian: apt install libcurl4"},
  };
  for (const Hint& hint : kHints) {
    if (reason.find(hint.soname) != std::string::npos) return reason + " (" + hint.advice + ")";
  }
  return reason;
}

void* load_python_extension(const ElfFile& file, const std::string& path) {
  StandIn python{"kvx-python.so", {path}, {}, {}, 0};
  for (const std::string& name : file.wanted_at_load()) {
    if (name.starts_with("Py") || name.starts_with("_Py")) python.data.push_back(name);
  }
  // The library is a dependency of the stand-in, so that it finds the symbols there and nobody else
  // does.
  load_image(make_stand_in(python), "kvx-python");
  return dlopen(path.c_str(), RTLD_LAZY | RTLD_NOLOAD);
}

std::unique_ptr<Library> load(const std::string& path, bool needs_all) {
  const ElfFile file(path);
  auto library = std::make_unique<Library>();
  library->path = path;
  library->memory_kinds = memory_kinds_of(file);
  if (file.defines(kCMark)) {
    library->face = Face::kCFunctions;
  } else if (!file.defines(kCxxMark)) {
    unavailable(path +
                " is not Mooncake's transfer engine: it has neither the C functions nor the "
                "C++ class.");
  }
  // Versions without it say COMPLETED before the bytes are visible to the target.
  if (!file.contains("MC_TCP_STATUS_TIMEOUT_SEC")) {
    unavailable(path +
                " is too old: it reports a write as completed before the target has it. "
                "0.3.12.post1 is the oldest version that can be used.");
  }
  prepare_environment();
  load_companions(file, needs_all, library->stand_ins);
  void* handle = library->face == Face::kCFunctions ? dlopen(path.c_str(), RTLD_LAZY | RTLD_LOCAL)
                                                    : load_python_extension(file, path);
  if (!handle) {
    const char* reason = dlerror();
    unavailable(explain(reason ? reason : path + " could not be loaded"));
  }
  library->api = library->face == Face::kCFunctions ? make_c_api(handle) : make_cxx_api(handle);
  library->log_level = static_cast<int*>(dlsym(handle, "_ZN3fLI17FLAGS_minloglevelE"));
  return library;
}

}  // namespace

Library& load_library(const std::string& path, bool needs_all) {
  static std::mutex mutex;
  static auto& loaded = *new std::map<std::string, std::unique_ptr<Library>>;
  const std::lock_guard lock(mutex);
  auto& library = loaded[path];
  if (!library) {
    try {
      library = load(path, needs_all);
    } catch (const DriverError& error) {
      loaded.erase(path);
      throw DriverError(error.code(), explain(error.what()));
    }
  }
  if (needs_all && !library->stand_ins.empty()) {
    unavailable(library->stand_ins.front() +
                " was missing when this process loaded Mooncake for TCP. Install it and start the "
                "process again to use RDMA or a metadata server.");
  }
  return *library;
}

void quiet(const Library& library) {
  if (library.log_level && !std::getenv("MC_LOG_LEVEL")) *library.log_level = 3;
}

}  // namespace kvx::mooncake
