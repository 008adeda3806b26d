// Stands in for libamdhip64.so.7 on a machine without ROCm: every call says "no device". Holds
// exactly what MORI 1.2.2 to 1.2.4 import; the version nodes are in hip.map.
enum { kNoDevice = 100 };

const char* hipGetErrorString(int error) {
  (void)error;
  return "no GPU runtime is installed (kvx stand-in)";
}

int hipGetDeviceCount(int* count) {
  if (count) *count = 0;
  return kNoDevice;
}

#define ABSENT(name)  \
  int name(void) {    \
    return kNoDevice; \
  }

ABSENT(hipDeviceCanAccessPeer)
ABSENT(hipDeviceEnablePeerAccess)
ABSENT(hipDeviceGetAttribute)
ABSENT(hipDeviceGetPCIBusId)
ABSENT(hipDeviceSynchronize)
ABSENT(hipEventCreateWithFlags)
ABSENT(hipEventDestroy)
ABSENT(hipEventQuery)
ABSENT(hipEventRecord)
ABSENT(hipEventSynchronize)
ABSENT(hipExtMallocWithFlags)
ABSENT(hipFree)
ABSENT(hipGetDevice)
ABSENT(hipGetLastError)
ABSENT(hipHostGetDevicePointer)
ABSENT(hipHostRegister)
ABSENT(hipHostUnregister)
ABSENT(hipIpcCloseMemHandle)
ABSENT(hipIpcGetMemHandle)
ABSENT(hipIpcOpenMemHandle)
ABSENT(hipMalloc)
ABSENT(hipMemAddressFree)
ABSENT(hipMemAddressReserve)
ABSENT(hipMemCreate)
ABSENT(hipMemExportToShareableHandle)
ABSENT(hipMemGetAddressRange)
ABSENT(hipMemGetAllocationGranularity)
ABSENT(hipMemGetHandleForAddressRange)
ABSENT(hipMemImportFromShareableHandle)
ABSENT(hipMemMap)
ABSENT(hipMemRelease)
ABSENT(hipMemRetainAllocationHandle)
ABSENT(hipMemSetAccess)
ABSENT(hipMemUnmap)
ABSENT(hipMemcpy)
ABSENT(hipMemcpyAsync)
ABSENT(hipMemcpyPeerAsync)
ABSENT(hipMemset)
ABSENT(hipModuleGetFunction)
ABSENT(hipModuleLaunchKernel)
ABSENT(hipModuleLoad)
ABSENT(hipModuleUnload)
ABSENT(hipPointerGetAttributes)
ABSENT(hipRuntimeGetVersion)
ABSENT(hipSetDevice)
ABSENT(hipStreamCreateWithFlags)
ABSENT(hipStreamDestroy)
