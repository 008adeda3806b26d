// Stands in for librocm_smi64.so.1 where it is missing or finds no GPU. MORI builds its map of the
// machine from it and ends the process when there is none, or when it counts no GPU: so this one
// counts one, at PCI address 0, without links to anything.
#include <stdbool.h>
#include <stdint.h>

enum { kSuccess = 0 };

int rsmi_init(uint64_t flags) {
  (void)flags;
  return kSuccess;
}

int rsmi_shut_down(void) {
  return kSuccess;
}

int rsmi_num_monitor_devices(uint32_t* count) {
  *count = 1;
  return kSuccess;
}

int rsmi_dev_pci_id_get(uint32_t device, uint64_t* address) {
  (void)device;
  *address = 0;
  return kSuccess;
}

int rsmi_is_P2P_accessible(uint32_t from, uint32_t to, bool* accessible) {
  (void)from, (void)to;
  *accessible = false;
  return kSuccess;
}

int rsmi_topo_get_link_type(uint32_t from, uint32_t to, uint64_t* hops, int* type) {
  (void)from, (void)to;
  *hops = 1;
  *type = 1;
  return kSuccess;
}

int rsmi_topo_get_link_weight(uint32_t from, uint32_t to, uint64_t* weight) {
  (void)from, (void)to;
  *weight = 1;
  return kSuccess;
}

int rsmi_status_string(int status, const char** text) {
  (void)status;
  *text = "no rocm-smi is installed (kvx stand-in)";
  return kSuccess;
}
