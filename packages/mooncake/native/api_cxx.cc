// The C++ methods of mooncake::TransferEngine, which every wheel's engine.so exports. No header of
// Mooncake is used: the class is a thin holder of a pointer, strings and vectors are libstdc++'s,
// and the one layout that differs between versions, that of a request, is measured (self_test.h)
// before anything is sent.
#include <cstring>
#include <string>
#include <vector>

#include "api.h"
#include "symbol.h"

namespace kvx::mooncake {
namespace {

// mooncake::Status, returned through memory. The message belongs to it.
struct CxxStatus {
  uint16_t code = 0;
  const char* message = nullptr;
  CxxStatus() = default;
  CxxStatus(const CxxStatus&) = delete;
  CxxStatus& operator=(const CxxStatus&) = delete;
  ~CxxStatus() { delete[] message; }
};
struct CxxTransferStatus {
  int state;
  uint64_t bytes;
};
// std::vector<T> of a T whose size is only known at run time. Passed by reference, never destroyed
// by Mooncake.
struct RawVector {
  const std::byte *begin, *end, *capacity;
};

// The first five fields of mooncake::Transport::TransferRequest are the same in all versions.
struct RequestHead {
  uint32_t opcode;
  uint32_t padding;
  uint64_t source;
  uint64_t segment;
  uint64_t target;
  uint64_t bytes;
};

// The object holds two or three pointers; the rest is room for versions to come.
constexpr size_t kObjectBytes = 8192;

#define KVX_STRING "NSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE"

class CxxApi final : public Api {
 public:
  explicit CxxApi(void* library) {
    resolve(library, kCxxMark, construct_);
    resolve(library, "_ZN8mooncake14TransferEngineD1Ev", destruct_);
    resolve(library, "_ZN8mooncake14TransferEngine4initERK" KVX_STRING "S8_S8_m", init_);
    resolve(library, "_ZN8mooncake14TransferEngine16installTransportERK" KVX_STRING "PPv",
            install_);
    resolve(library, "_ZN8mooncake14TransferEngine17getLocalIpAndPortB5cxx11Ev", address_);
    resolve(library, "_ZN8mooncake14TransferEngine19registerLocalMemoryEPvmRK" KVX_STRING "bb",
            register_);
    resolve(library, "_ZN8mooncake14TransferEngine21unregisterLocalMemoryEPvb", deregister_);
    resolve(library, "_ZN8mooncake14TransferEngine11openSegmentERK" KVX_STRING, open_);
    resolve(library, "_ZN8mooncake14TransferEngine16syncSegmentCacheERK" KVX_STRING, sync_);
    resolve(library, "_ZN8mooncake14TransferEngine15allocateBatchIDEm", allocate_);
    resolve(
        library,
        "_ZN8mooncake14TransferEngine14submitTransferEmRKSt6vectorINS_9Transport15TransferReques"
        "tESaIS3_EE",
        submit_);
    resolve(library,
            "_ZN8mooncake14TransferEngine17getTransferStatusEmmRNS_9Transport14TransferStatusE",
            status_);
    resolve(library, "_ZN8mooncake14TransferEngine11freeBatchIDEm", free_);
  }

  EngineHandle create(const std::string& metadata, const std::string& name, const std::string& host,
                      uint16_t port, bool discover) override {
    void* object = ::operator new(kObjectBytes, std::align_val_t{64});
    std::memset(object, 0, kObjectBytes);
    construct_(object, discover);
    if (init_(object, metadata, name, host, port) == 0) return object;
    destroy(object);
    return nullptr;
  }
  bool install_transport(EngineHandle engine, const std::string& protocol) override {
    return install_(engine, protocol, nullptr) != nullptr;
  }
  std::string address(EngineHandle engine) override { return address_(engine); }
  int register_memory(EngineHandle engine, void* address, size_t bytes,
                      const std::string& location) override {
    return register_(engine, address, bytes, location, true, true);
  }
  int deregister_memory(EngineHandle engine, void* address) override {
    return deregister_(engine, address, true);
  }
  int64_t open_segment(EngineHandle engine, const std::string& name) override {
    return static_cast<int64_t>(open_(engine, name));
  }
  void refresh_segments(EngineHandle engine) override { sync_(engine, ""); }
  BatchId allocate_batch(EngineHandle engine, size_t requests) override {
    return allocate_(engine, requests);
  }
  int submit(EngineHandle engine, BatchId batch, std::span<const Request> requests) override {
    std::vector<std::byte> list(requests.size() * request_bytes_);
    for (size_t i = 0; i < requests.size(); i++) {
      const Request& one = requests[i];
      const RequestHead head{
          static_cast<uint32_t>(one.operation), 0, one.source, one.segment, one.target, one.bytes};
      std::memcpy(&list[i * request_bytes_], &head, sizeof head);
    }
    return submit_raw(engine, batch, list);
  }
  TaskState status(EngineHandle engine, BatchId batch, size_t task) override {
    CxxTransferStatus status{};
    status_(engine, batch, task, status);
    return static_cast<TaskState>(status.state);
  }
  int free_batch(EngineHandle engine, BatchId batch) override { return free_(engine, batch).code; }
  void destroy(EngineHandle engine) override {
    destruct_(engine);
    ::operator delete(engine, std::align_val_t{64});
  }

  int submit_raw(EngineHandle engine, BatchId batch, std::span<const std::byte> bytes) override {
    const std::byte* end = bytes.data() + bytes.size();
    return submit_(engine, batch, RawVector{bytes.data(), end, end}).code;
  }
  bool has_request_layout() const override { return true; }
  void set_request_bytes(size_t bytes) override { request_bytes_ = bytes; }

 private:
  size_t request_bytes_ = 0;
  void (*construct_)(void*, bool);
  void (*destruct_)(void*);
  int (*init_)(void*, const std::string&, const std::string&, const std::string&, uint64_t);
  void* (*install_)(void*, const std::string&, void**);
  std::string (*address_)(void*);
  int (*register_)(void*, void*, size_t, const std::string&, bool, bool);
  int (*deregister_)(void*, void*, bool);
  uint64_t (*open_)(void*, const std::string&);
  int (*sync_)(void*, const std::string&);
  uint64_t (*allocate_)(void*, size_t);
  CxxStatus (*submit_)(void*, uint64_t, const RawVector&);
  CxxStatus (*status_)(void*, uint64_t, size_t, CxxTransferStatus&);
  CxxStatus (*free_)(void*, uint64_t);
};

}  // namespace

std::unique_ptr<Api> make_cxx_api(void* library) {
  return std::make_unique<CxxApi>(library);
}

}  // namespace kvx::mooncake
