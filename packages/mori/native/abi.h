// The part of MORI-IO's C++ interface that kvx uses, declared again: MORI 1.2.2 to 1.2.4 (x86-64,
// libstdc++). MORI has no C interface and its headers are only in its wheel; with these
// declarations the addon is built without the wheel, and needs no compiler where it runs.
// test/abi.test.ts compiles them beside the wheel's own headers and compares every size and offset;
// library.cc checks behaviour at load.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace kvx::mori {

enum class BackendType : uint32_t { kRdma = 2 };
enum class MemoryLocation : uint32_t { kCpu = 1, kGpu = 2 };
enum class PollMode : uint32_t { kPolling = 0 };
enum class Code : uint32_t {
  kSuccess = 0,
  kInit = 1,
  kInProgress = 2,
  kErrorsBegin = 10,  // everything above is an error
  kInvalidArguments = 11,
  kRdma = 13,
  kBadState = 14,
};

struct EngineConfig {
  std::string host;
  uint16_t port;
};

struct EngineDesc {
  std::string key, node_id, hostname, host;
  int port;
  int pid;
};

struct MemoryDesc {
  std::string engine_key;
  uint32_t id;
  int device_id;
  std::string device_bus_id;
  uintptr_t data;
  size_t size;
  MemoryLocation location;
  std::array<char, 64> ipc_handle;
  int numa_node;
  uintptr_t ipc_offset;
  std::array<char, 64> fabric_handle;
  int vpod_id;
  std::string vpod_ppod_id;
  uint64_t fabric_offset;
  uint64_t fabric_alloc_size;
};

// MORI keeps a pointer to it while a transfer runs: it may neither move nor go before MORI is done
// with it.
struct TransferStatus {
  TransferStatus() = default;
  TransferStatus(const TransferStatus&) = delete;
  TransferStatus& operator=(const TransferStatus&) = delete;

  std::atomic<Code> code{Code::kInit};
  std::mutex mutex;
  std::string message;  // under the mutex
  std::function<void()> wait_callback, progress_callback;
  std::condition_variable changed;
};

struct RdmaConfig {
  BackendType type = BackendType::kRdma;
  int qp_per_transfer = 1;
  int post_batch_size = -1;
  int num_worker_threads = 1;
  PollMode poll_mode = PollMode::kPolling;
  bool enable_notification = false;
  uint32_t notifications_per_qp = 1024;
  bool enable_chunking = false;
  size_t chunk_bytes = 65536;
  int max_chunks = 64;
  int nics_per_transfer = 1;
  int max_send_wr = 0;
  int max_cqe = 0;
  int max_sge = 0;
};

// An IOEngine begins with these two; the rest of it is MORI's own affair.
struct EngineHead {
  EngineConfig config;
  EngineDesc desc;
};
constexpr size_t kEngineBytes = 408;

struct Session {
  void* engine;
  std::shared_ptr<void> backend;
};

using Sizes = std::vector<size_t>;

// Members of IOEngine and IOEngineSession by their mangled names. In this ABI a member function is
// called like a free one whose first parameter is `this`, and a class result goes to a hidden
// pointer before it.
struct Api {
  void (*engine_construct)(void* self, std::string key, EngineConfig config);
  void (*engine_destroy)(void* self);
  void (*create_backend)(void* self, BackendType type, const RdmaConfig& config);
  void (*register_remote)(void* self, const EngineDesc& desc);
  void (*deregister_remote)(void* self, const EngineDesc& desc);
  MemoryDesc (*register_memory)(void* self, void* data, size_t size, int device,
                                MemoryLocation location);
  void (*deregister_memory)(void* self, const MemoryDesc& desc);
  std::optional<Session> (*create_session)(void* self, const MemoryDesc& local,
                                           const MemoryDesc& remote);
  uint64_t (*allocate_id)(void* session);
  void (*batch_write)(void* session, const Sizes& local_offsets, const Sizes& remote_offsets,
                      const Sizes& sizes, TransferStatus* status, uint64_t id);
};

}  // namespace kvx::mori
