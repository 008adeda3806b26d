#include "verbs.h"

#include <dlfcn.h>
#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <regex>
#include <sstream>

#include "kvx/driver.h"

namespace kvx::mori {
namespace {

// The stable part of libibverbs' structures that is read here (IBVERBS_1.1).
struct VerbsDevice {
  void* operations[2];
  int node_type, transport_type;
  char name[64], dev_name[64], dev_path[256], ibdev_path[256];
};
struct VerbsPort {
  int state, max_mtu, active_mtu, gid_table_length;
  uint32_t capabilities, max_message;
  char rest[256];  // more than any version of the library writes
};
constexpr int kPortActive = 4;
constexpr int kCompletionStatuses = 22;  // success, 20 kinds of error, general error
// Local write, remote write, remote read, remote atomic: what MORI asks for.
constexpr int kAccess = 1 | 2 | 4 | 8;

struct Verbs {
  VerbsDevice** (*get_device_list)(int* count);
  void (*free_device_list)(VerbsDevice** list);
  void* (*open_device)(VerbsDevice* device);
  int (*close_device)(void* context);
  int (*query_port)(void* context, uint8_t port, VerbsPort* attributes);
  void* (*alloc_pd)(void* context);
  int (*dealloc_pd)(void* pd);
  void* (*reg_mr)(void* pd, void* address, size_t bytes, int access);
  int (*dereg_mr)(void* mr);
  const char* (*wc_status_str)(int status);
};

const Verbs& verbs() {
  // The names in the order in which MORI tries them, so that both use the same library.
  static void* library = [] {
    void* handle = dlopen("libibverbs.so", RTLD_NOW | RTLD_LOCAL);
    return handle ? handle : dlopen("libibverbs.so.1", RTLD_NOW | RTLD_LOCAL);
  }();
  if (!library) {
    throw DriverError(
        "ERR_KVX_BACKEND_UNAVAILABLE",
        "MORI needs libibverbs.so.1 (Debian: apt install libibverbs1 ibverbs-providers).");
  }
  static const Verbs all = [] {
    Verbs v{};
    const auto find = [](auto& function, const char* name) {
      function =
          reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
      if (!function) {
        throw DriverError("ERR_KVX_BACKEND_UNAVAILABLE",
                          std::string("libibverbs has no ") + name + ".");
      }
    };
    find(v.get_device_list, "ibv_get_device_list");
    find(v.free_device_list, "ibv_free_device_list");
    find(v.open_device, "ibv_open_device");
    find(v.close_device, "ibv_close_device");
    find(v.query_port, "ibv_query_port");
    find(v.alloc_pd, "ibv_alloc_pd");
    find(v.dealloc_pd, "ibv_dealloc_pd");
    find(v.reg_mr, "ibv_reg_mr");
    find(v.dereg_mr, "ibv_dereg_mr");
    find(v.wc_status_str, "ibv_wc_status_str");
    return v;
  }();
  return all;
}

using Context = std::unique_ptr<void, int (*)(void*)>;

Context open_device(VerbsDevice* device) {
  return {verbs().open_device(device), verbs().close_device};
}

uint32_t max_message(VerbsDevice* device) {
  const Context context = open_device(device);
  if (!context) return 0;
  uint32_t least = 0;
  for (uint8_t port = 1; port != 0; port++) {
    VerbsPort attributes{};
    if (verbs().query_port(context.get(), port, &attributes) != 0) break;
    if (attributes.state != kPortActive) continue;
    least = least == 0 ? attributes.max_message : std::min(least, attributes.max_message);
    if (port == 16) break;  // more ports than any device has
  }
  return least;
}

std::string resolved(const char* path) {
  const std::unique_ptr<char, void (*)(void*)> real(realpath(path, nullptr), std::free);
  return real ? real.get() : path;
}

}  // namespace

std::vector<Device> list_devices() {
  int count = 0;
  VerbsDevice** list = verbs().get_device_list(&count);
  std::vector<Device> devices;
  for (int i = 0; list && i < count; i++) {
    devices.push_back(
        {list[i]->name, resolved(list[i]->ibdev_path), max_message(list[i]), list[i]});
  }
  // The list is kept: the devices in it are still used by try_registration, and a driver is made
  // rarely.
  return devices;
}

std::vector<Device> usable_devices(const std::vector<Device>& devices) {
  const char* selection = std::getenv("MORI_RDMA_DEVICES");
  std::string text = selection ? selection : "";
  const bool excludes = !text.empty() && text[0] == '^';
  if (excludes) text.erase(0, 1);
  std::vector<std::string> names;
  std::stringstream stream(text);
  for (std::string name; std::getline(stream, name, ',');) names.push_back(name);
  std::vector<Device> usable;
  for (const Device& device : devices) {
    const bool named = std::find(names.begin(), names.end(), device.name) != names.end();
    if (device.max_message > 0 && (names.empty() || named != excludes)) usable.push_back(device);
  }
  return usable;
}

bool has_pci_address(const std::string& path) {
  static const auto& address =
      *new std::regex("[0-9a-fA-F]{4,}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\\.[0-7]");
  return std::regex_search(path, address);
}

std::string try_registration(const Device& device, uint64_t address, uint64_t bytes) {
  const Context context = open_device(static_cast<VerbsDevice*>(device.handle));
  if (!context) return "device " + device.name + " could not be opened: " + std::strerror(errno);
  const Context pd(verbs().alloc_pd(context.get()), verbs().dealloc_pd);
  if (!pd) return "device " + device.name + " gives no protection domain: " + std::strerror(errno);
  void* mr = verbs().reg_mr(pd.get(), reinterpret_cast<void*>(address), bytes, kAccess);
  if (mr) {
    verbs().dereg_mr(mr);
    return "";
  }
  const int error = errno;
  std::string reason = "device " + device.name + " refused to register " + std::to_string(bytes) +
                       " bytes: " + std::strerror(error) + ".";
  rlimit limit{};
  if (error == ENOMEM && getrlimit(RLIMIT_MEMLOCK, &limit) == 0 &&
      limit.rlim_cur != RLIM_INFINITY) {
    reason +=
        " The limit on locked memory is " + std::to_string(limit.rlim_cur / 1024) +
        " KiB (ulimit -l); raise it: LimitMEMLOCK=infinity in a systemd unit, --ulimit memlock=-1 "
        "with Docker, or /etc/security/limits.conf.";
  }
  return reason;
}

const std::string& completion_text(int status) {
  static const auto& texts = *[] {
    auto* all = new std::vector<std::string>;
    for (int i = 0; i < kCompletionStatuses; i++) all->push_back(verbs().wc_status_str(i));
    return all;
  }();
  return texts.at(static_cast<size_t>(status));
}

bool names_completion(const std::string& text) {
  for (int status = 1; status < kCompletionStatuses; status++) {
    if (text.find(completion_text(status)) != std::string::npos) return true;
  }
  return false;
}

}  // namespace kvx::mori
