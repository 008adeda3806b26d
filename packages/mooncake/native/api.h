// The calls of Mooncake's TransferEngine that kvx needs, as both of its faces offer them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace kvx::mooncake {

enum class Operation { kRead = 0, kWrite = 1 };

struct Request {
  Operation operation;
  uint64_t source;   // address in this process
  uint64_t segment;  // of open_segment
  uint64_t target;   // address in the process that owns the segment
  uint64_t bytes;
};

// Of one request. The numbers are Mooncake's.
enum class TaskState {
  kWaiting = 0,
  kPending = 1,
  kInvalid = 2,
  kCanceled = 3,
  kCompleted = 4,
  kTimeout = 5,
  kFailed = 6
};

using EngineHandle = void*;
using BatchId = uint64_t;

// Numbers returned are Mooncake's: 0 is success. Everything may throw what its C++ code throws.
class Api {
 public:
  Api() = default;
  Api(const Api&) = delete;
  Api& operator=(const Api&) = delete;
  virtual ~Api() = default;

  // Null when it failed. `name` is host:port with a metadata server, else the host alone.
  // `discover`: finds the RDMA devices and installs the transports for them.
  virtual EngineHandle create(const std::string& metadata, const std::string& name,
                              const std::string& host, uint16_t port, bool discover) = 0;
  virtual bool install_transport(EngineHandle engine, const std::string& protocol) = 0;
  // host:port by which others open this engine's segment.
  virtual std::string address(EngineHandle engine) = 0;
  virtual int register_memory(EngineHandle engine, void* address, size_t bytes,
                              const std::string& location) = 0;
  virtual int deregister_memory(EngineHandle engine, void* address) = 0;
  // Negative when it failed. Blocks: connects to the peer.
  virtual int64_t open_segment(EngineHandle engine, const std::string& name) = 0;
  // Forgets what is known of other engines' memory, so that the next use fetches it.
  virtual void refresh_segments(EngineHandle engine) = 0;

  virtual BatchId allocate_batch(EngineHandle engine, size_t requests) = 0;
  virtual int submit(EngineHandle engine, BatchId batch, std::span<const Request> requests) = 0;
  virtual TaskState status(EngineHandle engine, BatchId batch, size_t task) = 0;
  // Fails while a task has not been seen finished.
  virtual int free_batch(EngineHandle engine, BatchId batch) = 0;

  virtual void destroy(EngineHandle engine) = 0;

  // The C++ face only, see self_test.h.
  virtual int submit_raw(EngineHandle, BatchId, std::span<const std::byte>) { return -1; }
  virtual bool has_request_layout() const { return false; }
  virtual void set_request_bytes(size_t) {}
};

// `library` is a handle of dlopen. Throw DriverError that names a missing symbol.
std::unique_ptr<Api> make_c_api(void* library);
std::unique_ptr<Api> make_cxx_api(void* library);

// A symbol that each face has and the other lacks.
inline constexpr const char* kCMark = "createTransferEngine";
inline constexpr const char* kCxxMark = "_ZN8mooncake14TransferEngineC1Eb";

}  // namespace kvx::mooncake
