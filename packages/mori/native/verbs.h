// Looks at the machine's RDMA devices with libibverbs itself, before MORI does: MORI ends or hangs
// the process where a question asked first can be answered with a message.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace kvx::mori {

struct Device {
  std::string name;
  std::string path;  // in sysfs, resolved
  uint32_t max_message =
      0;  // bytes of one message, the least over its active ports; 0: no port is active
  void* handle = nullptr;  // ibv_device
};

// The machine's devices, as libibverbs lists them. Throws DriverError when there is no libibverbs.
std::vector<Device> list_devices();

// Those of `devices` that MORI uses: with an active port, and as MORI_RDMA_DEVICES selects them.
std::vector<Device> usable_devices(const std::vector<Device>& devices);

// Whether the resolved path names a PCI device. MORI walks up the path until it finds one, for
// ever.
bool has_pci_address(const std::string& path);

// Registers the range with the device the way MORI will, and gives it back. MORI aborts the process
// when a registration fails. Empty on success, else the reason.
std::string try_registration(const Device& device, uint64_t address, uint64_t bytes);

// libibverbs' text for the status of a work completion.
const std::string& completion_text(int status);

// Whether a text of MORI quotes an unsuccessful work completion.
bool names_completion(const std::string& text);

}  // namespace kvx::mori
