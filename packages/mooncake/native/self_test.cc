#include "self_test.h"

#include <chrono>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "kvx/driver.h"

namespace kvx::mooncake {
namespace {

constexpr size_t kPieces = 17;
constexpr size_t kPieceRoom = 4096;
constexpr size_t kBytes = kPieces * kPieceRoom;
constexpr auto kPatience = std::chrono::seconds(5);

[[noreturn]] void refuse(const std::string& why) {
  throw DriverError("ERR_KVX_BACKEND_UNAVAILABLE", "The library failed its self-test: " + why);
}

// Never destroyed, as the memory is never freed: that would take a second each, and the process
// ends soon.
EngineHandle make_engine(Library& library, std::vector<std::byte>& memory) {
  Api& api = *library.api;
  quiet(library);
  const EngineHandle engine = api.create("P2PHANDSHAKE", "127.0.0.1", "127.0.0.1", 0, false);
  if (!engine) refuse("no engine could be made on 127.0.0.1.");
  quiet(library);
  if (!api.install_transport(engine, "tcp")) refuse("it has no TCP transport.");
  if (api.register_memory(engine, memory.data(), kBytes, "cpu:0") != 0) {
    refuse("memory could not be registered.");
  }
  return engine;
}

// 64 requests of `bytes` bytes fit into a batch for 64 only when `bytes` is their true size: code 2
// says that there are too many. From large to small the first other answer is a hit; it is refused
// for its unknown target segment, so nothing is ever sent.
size_t measure_request(Api& api, EngineHandle engine) {
  constexpr size_t kRequests = 64, kTooMany = 2;
  for (size_t bytes = 256; bytes >= 40; bytes -= 8) {
    const std::vector<std::byte> requests(kRequests * bytes, std::byte{0x7f});
    const BatchId batch = api.allocate_batch(engine, kRequests);
    const auto code = static_cast<size_t>(api.submit_raw(engine, batch, requests));
    api.free_batch(engine, batch);
    if (code != kTooMany) return bytes;
  }
  return 0;
}

bool completes(Api& api, EngineHandle engine, const std::vector<Request>& requests) {
  const BatchId batch = api.allocate_batch(engine, requests.size());
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  bool all_completed = api.submit(engine, batch, requests) == 0;
  if (!all_completed) {
    api.free_batch(engine, batch);
    return false;
  }
  for (size_t task = 0; task < requests.size(); task++) {
    TaskState state = TaskState::kWaiting;
    while ((state = api.status(engine, batch, task)) < TaskState::kCanceled) {
      if (std::chrono::steady_clock::now() > deadline) refuse("a transfer did not end.");
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
    all_completed = all_completed && state == TaskState::kCompleted;
  }
  api.free_batch(engine, batch);
  return all_completed;
}

}  // namespace

size_t self_test(Library& library) {
  Api& api = *library.api;
  auto& source = *new std::vector<std::byte>(kBytes);
  auto& target = *new std::vector<std::byte>(2 * kBytes);  // only the first half is registered
  std::vector<std::byte> expected(2 * kBytes);
  for (size_t i = 0; i < kBytes; i++) source[i] = static_cast<std::byte>(i * 31 + (i >> 8) + 1);

  const EngineHandle writer = make_engine(library, source);
  const EngineHandle owner = make_engine(library, target);
  size_t request_bytes = 0;
  if (api.has_request_layout()) {
    request_bytes = measure_request(api, writer);
    if (request_bytes != 48 && request_bytes != 56 && request_bytes != 72) {
      refuse("a request of this version has " + std::to_string(request_bytes) +
             " bytes; kvx knows 48, 56 and 72.");
    }
    api.set_request_bytes(request_bytes);
  }
  const int64_t segment = api.open_segment(writer, api.address(owner));
  if (segment < 0) refuse("one engine could not open the other one's segment.");

  const auto address = [](const std::byte* pointer) { return reinterpret_cast<uint64_t>(pointer); };
  std::vector<Request> requests;
  for (size_t i = 0; i < kPieces; i++) {
    const size_t from = i * kPieceRoom, to = (kPieces - 1 - i) * kPieceRoom + i;
    const size_t bytes = kPieceRoom - 3 * i - 20;
    requests.push_back({Operation::kWrite, address(&source[from]), static_cast<uint64_t>(segment),
                        address(&target[to]), bytes});
    std::memcpy(&expected[to], &source[from], bytes);
  }
  if (!completes(api, writer, requests)) refuse("a write between two engines failed.");
  if (target != expected) refuse("bytes were lost, changed or written to a wrong place.");

  const std::vector<Request> outside = {{Operation::kWrite, address(source.data()),
                                         static_cast<uint64_t>(segment),
                                         address(&target[kBytes + kPieceRoom]), kPieceRoom}};
  if (completes(api, writer, outside) || target != expected) {
    refuse(
        "it writes to memory that was never registered. 0.3.12.post1 is the oldest version that "
        "can be used.");
  }
  return request_bytes;
}

}  // namespace kvx::mooncake
