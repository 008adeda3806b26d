// The C functions of a libtransfer_engine.so. Their signatures have only ever been added to.
#include <vector>

#include "api.h"
#include "symbol.h"

namespace kvx::mooncake {
namespace {

struct CRequest {
  int opcode;
  void* source;
  int32_t segment;
  uint64_t target;
  uint64_t bytes;
};
struct CStatus {
  int state;
  uint64_t bytes;
};

class CApi final : public Api {
 public:
  explicit CApi(void* library) {
    resolve(library, "createTransferEngine", create_);
    resolve(library, "destroyTransferEngine", destroy_);
    resolve(library, "installTransport", install_);
    resolve(library, "getLocalIpAndPort", address_);
    resolve(library, "registerLocalMemory", register_);
    resolve(library, "unregisterLocalMemory", deregister_);
    resolve(library, "openSegment", open_);
    resolve(library, "syncSegmentCache", sync_);
    resolve(library, "allocateBatchID", allocate_);
    resolve(library, "submitTransfer", submit_);
    resolve(library, "getTransferStatus", status_);
    resolve(library, "freeBatchID", free_);
  }

  EngineHandle create(const std::string& metadata, const std::string& name, const std::string& host,
                      uint16_t port, bool discover) override {
    return create_(metadata.c_str(), name.c_str(), host.c_str(), port, discover ? 1 : 0);
  }
  bool install_transport(EngineHandle engine, const std::string& protocol) override {
    return install_(engine, protocol.c_str(), nullptr) != nullptr;
  }
  std::string address(EngineHandle engine) override {
    char text[512] = {};  // a longer one would be cut short in silence
    address_(engine, text, sizeof text - 1);
    return text;
  }
  int register_memory(EngineHandle engine, void* address, size_t bytes,
                      const std::string& location) override {
    return register_(engine, address, bytes, location.c_str(), 1);
  }
  int deregister_memory(EngineHandle engine, void* address) override {
    return deregister_(engine, address);
  }
  int64_t open_segment(EngineHandle engine, const std::string& name) override {
    return open_(engine, name.c_str());
  }
  void refresh_segments(EngineHandle engine) override { sync_(engine); }
  BatchId allocate_batch(EngineHandle engine, size_t requests) override {
    return allocate_(engine, requests);
  }
  int submit(EngineHandle engine, BatchId batch, std::span<const Request> requests) override {
    std::vector<CRequest> list;
    list.reserve(requests.size());
    for (const Request& one : requests) {
      list.push_back({static_cast<int>(one.operation), reinterpret_cast<void*>(one.source),
                      static_cast<int32_t>(one.segment), one.target, one.bytes});
    }
    return submit_(engine, batch, list.data(), list.size());
  }
  TaskState status(EngineHandle engine, BatchId batch, size_t task) override {
    CStatus status{};
    status_(engine, batch, task, &status);
    return static_cast<TaskState>(status.state);
  }
  int free_batch(EngineHandle engine, BatchId batch) override { return free_(engine, batch); }
  void destroy(EngineHandle engine) override { destroy_(engine); }

 private:
  void* (*create_)(const char*, const char*, const char*, uint64_t, int);
  void (*destroy_)(void*);
  void* (*install_)(void*, const char*, void**);
  int (*address_)(void*, char*, size_t);
  int (*register_)(void*, void*, size_t, const char*, int);
  int (*deregister_)(void*, void*);
  int32_t (*open_)(void*, const char*);
  int (*sync_)(void*);
  uint64_t (*allocate_)(void*, size_t);
  int (*submit_)(void*, uint64_t, CRequest*, size_t);
  int (*status_)(void*, uint64_t, size_t, CStatus*);
  int (*free_)(void*, uint64_t);
};

}  // namespace

std::unique_ptr<Api> make_c_api(void* library) {
  return std::make_unique<CApi>(library);
}

}  // namespace kvx::mooncake
