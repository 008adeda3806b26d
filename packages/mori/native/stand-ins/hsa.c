// Stands in for libhsa-runtime64.so.1 on a machine without ROCm: every call fails. Holds exactly
// what MORI 1.2.2 to 1.2.4 import; the version node is in hsa.map.
enum { kSuccess = 0, kError = 0x1000 };

int hsa_status_string(int status, const char** text) {
  (void)status;
  *text = "no GPU runtime is installed (kvx stand-in)";
  return kSuccess;
}

#define ABSENT(name) \
  int name(void) {   \
    return kError;   \
  }

ABSENT(hsa_agent_get_info)
ABSENT(hsa_amd_agent_iterate_memory_pools)
ABSENT(hsa_amd_memory_lock_to_pool)
ABSENT(hsa_amd_memory_pool_get_info)
ABSENT(hsa_amd_portable_export_dmabuf)
ABSENT(hsa_init)
ABSENT(hsa_iterate_agents)
ABSENT(hsa_shut_down)
