#include "library.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>

#include "kvx/driver.h"

namespace kvx::mori {
namespace {

struct Needed {
  const char* soname;
  const char* package;
  bool stand_in;  // kvx has one of the same name
};

constexpr Needed kNeeded[] = {
    {"libamdhip64.so.7", "", true},
    {"libhsa-runtime64.so.1", "", true},
    {"libpci.so.3", "libpci3", false},
    {"libdrm.so.2", "libdrm2", false},
    {"libdrm_amdgpu.so.1", "libdrm-amdgpu1", false},
    {"libnuma.so.1", "libnuma1", false},
};
constexpr const char* kRocmSmi = "librocm_smi64.so.1";

[[noreturn]] void unavailable(const std::string& message) {
  throw DriverError("ERR_KVX_BACKEND_UNAVAILABLE", message);
}

std::string last_error() {
  const char* text = dlerror();
  return text ? text : "no reason given";
}

// By name, then in ROCm's folder, where MORI's own search path looks too.
void* open_rocm(const char* soname, std::string& problem) {
  const char* root = std::getenv("ROCM_PATH");
  const std::string folder = std::string(root && *root ? root : "/opt/rocm") + "/lib/";
  if (void* handle = dlopen(soname, RTLD_LAZY | RTLD_LOCAL)) return handle;
  problem = last_error();
  return dlopen((folder + soname).c_str(), RTLD_LAZY | RTLD_LOCAL);
}

void* open_or_throw(const std::string& path, const char* what) {
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) unavailable(std::string(what) + " could not be loaded: " + last_error());
  return handle;
}

template <typename Function>
void find(void* library, Function& function, const char* symbol, const char* plain) {
  function = reinterpret_cast<Function>(dlsym(library, symbol));
  if (!function) {
    unavailable(std::string("libmori_io.so has no ") + plain + " with the expected signature (" +
                symbol + "): this is another version of MORI than it says.");
  }
}

Api resolve(void* library) {
  Api api{};
#define KVX_ENGINE "_ZN4mori2io8IOEngine"
#define KVX_SESSION "_ZN4mori2io15IOEngineSession"
#define KVX_STRING "NSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE"
  find(library, api.engine_construct, KVX_ENGINE "C1E" KVX_STRING "NS0_14IOEngineConfigE",
       "IOEngine()");
  find(library, api.engine_destroy, KVX_ENGINE "D1Ev", "~IOEngine");
  find(library, api.create_backend,
       KVX_ENGINE "13CreateBackendENS0_11BackendTypeERKNS0_13BackendConfigE", "CreateBackend");
  find(library, api.register_remote, KVX_ENGINE "20RegisterRemoteEngineERKNS0_10EngineDescE",
       "RegisterRemoteEngine");
  find(library, api.deregister_remote, KVX_ENGINE "22DeregisterRemoteEngineERKNS0_10EngineDescE",
       "DeregisterRemoteEngine");
  find(library, api.register_memory, KVX_ENGINE "14RegisterMemoryEPvmiNS0_18MemoryLocationTypeE",
       "RegisterMemory");
  find(library, api.deregister_memory, KVX_ENGINE "16DeregisterMemoryERKNS0_10MemoryDescE",
       "DeregisterMemory");
  find(library, api.create_session, KVX_ENGINE "13CreateSessionERKNS0_10MemoryDescES4_",
       "CreateSession");
  find(library, api.allocate_id, KVX_SESSION "24AllocateTransferUniqueIdEv",
       "AllocateTransferUniqueId");
  find(library, api.batch_write,
       KVX_SESSION "10BatchWriteERKSt6vectorImSaImEES6_S6_PNS0_14TransferStatusEm", "BatchWrite");
#undef KVX_STRING
#undef KVX_SESSION
#undef KVX_ENGINE
  return api;
}

// A result that MORI writes, between bytes it must leave alone.
template <typename T>
class Guarded {
 public:
  Guarded() { std::memset(room_, kFill, sizeof room_); }
  ~Guarded() {
    if (made_) object()->~T();
  }
  // Calls a member function that returns T, as the ABI has it: the place of the result comes first.
  template <typename... Parameters, typename... Arguments>
  void fill(T (*function)(Parameters...), Arguments... arguments) {
    reinterpret_cast<void* (*)(void*, Parameters...)>(reinterpret_cast<void*>(function))(
        object(), arguments...);
    made_ = true;
  }
  T* object() { return reinterpret_cast<T*>(room_); }
  bool overrun() const {
    for (size_t i = sizeof(T); i < sizeof room_; i++) {
      if (room_[i] != kFill) return true;
    }
    return false;
  }

 private:
  static constexpr unsigned char kFill = 0xa5;
  alignas(16) unsigned char room_[sizeof(T) + 256];
  bool made_ = false;
};

// Registers one page without a network and looks at the answer: a MORI with other structures fails
// here, in plain words, and not later with wrong bytes.
void self_test(const Api& api) {
  constexpr size_t kPage = 4096;
  alignas(16) unsigned char engine[kEngineBytes + 1024];
  const auto page = std::make_unique<unsigned char[]>(kPage);
  std::string wrong;
  try {
    api.engine_construct(engine, "kvx-self-test", EngineConfig{"127.0.0.1", 0});
    const EngineDesc& desc = reinterpret_cast<const EngineHead*>(engine)->desc;
    if (desc.key != "kvx-self-test" || desc.host != "127.0.0.1" || desc.pid != getpid()) {
      wrong = "the engine's description";
    }
    Guarded<MemoryDesc> memory;
    memory.fill(api.register_memory, static_cast<void*>(engine), static_cast<void*>(page.get()),
                kPage, -1, MemoryLocation::kCpu);
    const MemoryDesc& m = *memory.object();
    if (m.engine_key != desc.key || m.data != reinterpret_cast<uintptr_t>(page.get()) ||
        m.size != kPage || m.location != MemoryLocation::kCpu || m.device_id != -1 ||
        m.vpod_id != -1 || !m.vpod_ppod_id.empty() || m.fabric_offset != 0 ||
        m.fabric_alloc_size != 0 || memory.overrun()) {
      wrong = "a memory description";
    }
    api.deregister_memory(engine, m);
    api.engine_destroy(engine);
  } catch (const std::exception& error) {
    wrong = error.what();
  }
  if (!wrong.empty()) {
    unavailable(
        "MORI failed the test at load (" + wrong +
        "): its structures differ from those of 1.2.2 to 1.2.4, which this kvx was made for.");
  }
}

}  // namespace

std::vector<Dependency> check_dependencies() {
  std::vector<Dependency> found;
  for (const Needed& needed : kNeeded) {
    std::string problem;
    void* handle = nullptr;
    if (needed.stand_in) {
      handle = open_rocm(needed.soname, problem);
    } else {
      handle = dlopen(needed.soname, RTLD_LAZY | RTLD_LOCAL);
      if (!handle) problem = last_error();
    }
    found.push_back({needed.soname, needed.package, handle ? "" : problem});
  }
  return found;
}

std::string check_rocm_smi() {
  std::string problem;
  void* library = nullptr;
  if (const char* path = std::getenv("MORI_ROCM_SMI_PATH"); path && *path) {
    library = dlopen(path, RTLD_LAZY | RTLD_LOCAL);
    if (!library) problem = last_error();
  } else {
    library = open_rocm(kRocmSmi, problem);
  }
  if (!library) return problem;
  const auto init = reinterpret_cast<int (*)(uint64_t)>(dlsym(library, "rsmi_init"));
  const auto count =
      reinterpret_cast<int (*)(uint32_t*)>(dlsym(library, "rsmi_num_monitor_devices"));
  const auto shut_down = reinterpret_cast<int (*)()>(dlsym(library, "rsmi_shut_down"));
  if (!init || !count || !shut_down) return "it lacks functions of rocm-smi";
  if (const int status = init(0)) return "rsmi_init returned " + std::to_string(status);
  uint32_t devices = 0;
  const int status = count(&devices);
  shut_down();
  if (status != 0) return "rsmi_num_monitor_devices returned " + std::to_string(status);
  return devices == 0 ? "it counts no GPU" : "";
}

const Api& load(const LoadOptions& options) {
  static std::mutex mutex;
  static auto& loaded = *new std::optional<Api>;
  static auto& with = *new LoadOptions;
  const std::lock_guard lock(mutex);
  if (loaded) {
    if (with.mori != options.mori || with.verbs != options.verbs) {
      unavailable("This process already uses " + with.mori + "; " + options.mori +
                  " cannot be loaded beside it.");
    }
    return *loaded;
  }
  // What is loaded stays loaded: MORI's threads run in it. First what MORI looks up by soname
  // later.
  if (!options.verbs.empty()) open_or_throw(options.verbs, "The libibverbs given");
  for (const Needed& needed : kNeeded) {
    std::string problem;
    if (needed.stand_in) {
      if (open_rocm(needed.soname, problem)) continue;
      open_or_throw(options.stand_ins + "/" + needed.soname, "A stand-in for a library of ROCm");
    } else if (!dlopen(needed.soname, RTLD_LAZY | RTLD_LOCAL)) {
      problem = last_error();
      unavailable("MORI needs " + std::string(needed.soname) + " (Debian: apt install " +
                  needed.package + "): " + problem);
    }
  }
  void* library = dlopen(options.mori.c_str(), RTLD_LAZY | RTLD_LOCAL);
  if (!library) unavailable("MORI could not be loaded: " + last_error());
  const Api api = resolve(library);
  self_test(api);
  with = options;
  loaded = api;
  return *loaded;
}

}  // namespace kvx::mori
