#include "driver.h"

#include <algorithm>
#include <atomic>
#include <charconv>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <utility>

#include "kvx/thread.h"
#include "library.h"
#include "sockets.h"

namespace kvx::mooncake {
namespace {

constexpr const char* kUnavailable = "ERR_KVX_BACKEND_UNAVAILABLE";
constexpr const char* kConnectFailed = "ERR_KVX_CONNECT_FAILED";

// A connection that the system gave up (after 100 s at the very least, 15 minutes by default) ends
// in FAILED as well, and then nothing is known of the target. One that the target closed fails much
// sooner.
constexpr auto kFailureProves = std::chrono::seconds(60);

// Requests to one peer at once. Mooncake queues so many; what comes on top fails after a second.
constexpr size_t kMostInFlight = 1024;

// Whatever Mooncake throws must not pass as something else.
template <typename Body>
auto calling(const char* code, const char* what, Body body) {
  try {
    return body();
  } catch (const DriverError&) {
    throw;
  } catch (const std::exception& error) {
    throw DriverError(code, std::string(what) + ": " + error.what());
  } catch (...) {
    throw DriverError(code, std::string(what) + " for an unknown reason");
  }
}

// What a writer needs to find an engine and to be sure that it is the one that was meant.
struct EngineAddress {
  uint64_t card;     // address of the Card in the owner's process
  std::string name;  // host:port

  Bytes encode() const {
    Bytes bytes(sizeof card + name.size());
    std::memcpy(bytes.data(), &card, sizeof card);
    std::memcpy(bytes.data() + sizeof card, name.data(), name.size());
    return bytes;
  }
  static EngineAddress decode(const Bytes& bytes) {
    EngineAddress address{};
    if (bytes.size() > sizeof address.card) {
      std::memcpy(&address.card, bytes.data(), sizeof address.card);
      address.name.assign(bytes.begin() + sizeof address.card, bytes.end());
      if (address.port() != 0) return address;
    }
    throw DriverError(kConnectFailed, "The address of the peer's engine is malformed.");
  }
  std::string host() const { return name.substr(0, name.rfind(':')); }
  // 0: malformed. Mooncake would throw or ask a name server for whatever this is.
  uint16_t port() const {
    const size_t colon = name.rfind(':');
    if (colon == std::string::npos || colon == 0 || name.find('\0') != std::string::npos) return 0;
    uint16_t number = 0;
    const char* end = name.data() + name.size();
    const auto [stop, error] = std::from_chars(name.data() + colon + 1, end, number);
    return error == std::errc{} && stop == end ? number : 0;
  }
};

// Registered by every engine, read by whoever connects: ports are used again by other processes and
// by later engines of this one, and they may have memory at the same addresses.
struct alignas(64) Card {
  char generation[64] = {};
  bool operator==(const Card&) const = default;
};

class MooncakeDriver final : public Driver {
 public:
  MooncakeDriver(const Options& options, const DriverContext& context)
      : tcp_(options.text("protocol", "tcp") == "tcp"),
        library_(load_library(options.text("library"),
                              !tcp_ || options.text("metadata") != kPeerToPeer)),
        api_(*library_.api),
        close_patience_(static_cast<int64_t>(options.number("closeMs", 3000))) {
    api_.set_request_bytes(static_cast<size_t>(options.number("requestBytes", 0)));
    card_ = std::make_unique<Card>();
    context.generation.copy(card_->generation, sizeof card_->generation);
    describe(options);
    engine_ = calling(kUnavailable, "Mooncake's engine could not be made",
                      [&] { return create(options); });
    try {
      calling(kUnavailable, "Mooncake's engine could not be set up", [&] { set_up(options); });
    } catch (...) {
      take_down();
      throw;
    }
  }

  ~MooncakeDriver() override { take_down(); }

  const Capabilities& capabilities() const override { return capabilities_; }
  Bytes address() const override { return address_.encode(); }

  void register_memory(RegionId id, const Memory& memory, Bytes& descriptor) override {
    const int code = calling("ERR_KVX_MEMORY", "Mooncake could not register the memory", [&] {
      return api_.register_memory(engine_, reinterpret_cast<void*>(memory.address), memory.bytes,
                                  location(memory));
    });
    if (code != 0) throw registration_failed(code, "of " + std::to_string(memory.bytes) + " bytes");
    const std::lock_guard lock(mutex_);
    regions_[id] = memory.address;
    descriptor.resize(sizeof memory.address);
    std::memcpy(descriptor.data(), &memory.address, sizeof memory.address);
  }

  void deregister_memory(RegionId id) override {
    uint64_t address = 0;
    {
      const std::lock_guard lock(mutex_);
      address = regions_.at(id);
      regions_.erase(id);
    }
    calling("ERR_KVX_MEMORY", "Mooncake could not deregister the memory",
            [&] { return api_.deregister_memory(engine_, reinterpret_cast<void*>(address)); });
  }

  PeerId connect(const PeerAddress& peer, Clock::time_point deadline,
                 const std::atomic<bool>& cancelled) override {
    const auto address = EngineAddress::decode(peer.address);
    auto known = std::make_shared<Peer>();
    for (const Bytes& region : peer.regions) {
      uint64_t base = 0;
      if (region.size() != sizeof base) {
        throw DriverError(kConnectFailed, "A region descriptor of the peer is malformed.");
      }
      std::memcpy(&base, region.data(), sizeof base);
      known->regions.push_back(base);
    }
    known->segment = open_segment(address, deadline, cancelled);
    check_card(address, known->segment, peer.generation, deadline, cancelled);
    keep_from_children();
    const std::lock_guard lock(mutex_);
    const PeerId id = next_peer_++;
    peers_[id] = std::move(known);
    return id;
  }

  void disconnect(PeerId id) override {
    const std::lock_guard lock(mutex_);
    peers_.erase(id);  // Mooncake's closeSegment does nothing
  }

  bool fenced(const Generation&) override { return false; }

  TransferId submit(PeerId id, std::span<const Segment> segments,
                    const std::atomic<bool>& cancelled) override {
    std::vector<Request> requests;
    requests.reserve(segments.size());
    int64_t segment = 0;
    {
      std::unique_lock lock(mutex_);
      const Peer& peer = *peers_.at(id);
      segment = peer.segment;
      for (const Segment& one : segments) {
        requests.push_back({Operation::kWrite, regions_.at(one.source_region) + one.source_offset,
                            static_cast<uint64_t>(peer.segment),
                            peer.regions.at(one.destination_region) + one.destination_offset,
                            one.bytes});
      }
      size_t& in_flight = in_flight_[segment];
      while (in_flight > 0 && in_flight + requests.size() > kMostInFlight) {
        if (cancelled) throw DriverError("ERR_KVX_ABORTED", "The transfer was given up.");
        room_.wait_for(lock, std::chrono::milliseconds(20));
      }
      in_flight += requests.size();
    }
    Transfer transfer;
    try {
      transfer = post(requests, "ERR_KVX_TRANSFER_FAILED");
    } catch (...) {
      leave(segment, requests.size());
      throw;
    }
    transfer.segment = segment;
    transfer.requests = requests.size();
    const std::lock_guard lock(mutex_);
    const TransferId number = next_transfer_++;
    transfers_[number] = std::move(transfer);
    return number;
  }

  State poll(TransferId id, std::string& reason) override {
    Transfer* transfer = nullptr;
    {
      const std::lock_guard lock(mutex_);
      transfer = &transfers_.at(id);  // stays where it is: only this thread erases
    }
    const State state = watch(*transfer);
    if (state == State::kFailed && std::exchange(transfer->told, true)) return State::kPending;
    if (state == State::kFailed || state == State::kFailedSettled) reason = transfer->reason;
    return state;
  }

  void release(TransferId id) override {
    Transfer transfer;
    {
      const std::lock_guard lock(mutex_);
      const auto found = transfers_.find(id);
      transfer = std::move(found->second);
      transfers_.erase(found);
    }
    api_.free_batch(engine_, transfer.batch);
    leave(transfer.segment, transfer.requests);
  }

  void stop() override { take_down(); }
  std::string abandon_reason() const override { return abandon_reason_; }
  std::string unsettled_reason() const override { return unsettled_reason_; }

 private:
  static constexpr const char* kPeerToPeer = "P2PHANDSHAKE";

  struct Peer {
    int64_t segment = 0;
    std::vector<uint64_t> regions;
  };

  struct Transfer {
    BatchId batch = 0;
    int64_t segment = 0;
    size_t requests = 0;
    size_t left = 0;  // tasks from the first to this one have not been seen finished
    Clock::time_point posted;
    std::string reason;     // not empty: a task failed
    bool unproven = false;  // failed in a way after which bytes may still land
    bool told = false;      // kFailed is answered once; then the rest is waited for
  };

  // A call of openSegment that was given up. It cannot be cancelled.
  struct Opening {
    EngineAddress address;
    std::vector<std::string> hosts;  // its host in numbers, once they are known; under the mutex
    std::vector<ino_t> others;       // connections that were there before it
    std::mutex mutex;
    std::condition_variable ended_wake;
    bool ended = false;
    int64_t segment = -1;
    std::string failure;
    std::thread thread;
  };

  EngineHandle create(const Options& options) {
    // RDMA devices are found by Mooncake, which also knows which one is near which memory; the
    // environment is the only way to name them that both faces have.
    static std::mutex environment;
    const std::lock_guard lock(environment);
    const std::string devices = options.text("devices");
    if (!devices.empty()) setenv("MC_TE_FILTERS", devices.c_str(), 1);
    quiet(library_);
    const std::string metadata = options.text("metadata", kPeerToPeer);
    const std::string host = options.text("hostname", "127.0.0.1");
    std::string name = host;
    uint16_t port = 0;
    if (metadata != kPeerToPeer) {
      // There the name is the key under which the server knows the engine, and the port is not
      // chosen by Mooncake.
      port = free_port();
      name += ":" + std::to_string(port);
      address_.name = name;
    }
    EngineHandle engine = api_.create(metadata, name, host, port, !tcp_);
    if (!engine) {
      throw DriverError(kUnavailable,
                        "Mooncake could not make an engine for host '" + options.text("hostname") +
                            "' with metadata '" + options.text("metadata") +
                            "'. Is the host name one of this machine, and the metadata server up?");
    }
    return engine;
  }

  void set_up(const Options& options) {
    quiet(library_);
    const std::string protocol = options.text("protocol", "tcp");
    if (!api_.install_transport(engine_, protocol)) {
      throw DriverError(kUnavailable, "Mooncake could not start its " + protocol + " transport.");
    }
    address_.card = reinterpret_cast<uint64_t>(card_.get());
    if (address_.name.empty()) address_.name = api_.address(engine_);
    if (address_.port() == 0) {
      throw DriverError(kUnavailable, "Mooncake gave itself the address '" + address_.name +
                                          "', which nobody can connect to.");
    }
    const int code = api_.register_memory(engine_, card_.get(), sizeof(Card), location({}));
    if (code != 0) throw registration_failed(code, "of its own");
    keep_from_children();
  }

  void describe(const Options& options) {
    capabilities_.memory_kinds = library_.memory_kinds;
    capabilities_.cross_host = true;
    capabilities_.fence = "engine";
    capabilities_.max_batch_segments = static_cast<uint64_t>(options.number("maxBatch", 512));
    capabilities_.max_segment_bytes = static_cast<uint64_t>(options.number("maxSegmentBytes", 0));
    capabilities_.min_efficient_run = 65536;  // one request each, with an acknowledgement
    capabilities_.version = options.text("version", "unknown");
  }

  // Only RDMA asks near which device memory lies; finding that out means asking for every page.
  std::string location(const Memory& memory) const {
    if (!tcp_) return "*";
    if (memory.kind == MemoryKind::kCpu) return "cpu:0";
    return "cuda:" + std::to_string(memory.device);  // of HIP as well
  }

  static DriverError registration_failed(int code, const std::string& what) {
    std::string why = "code " + std::to_string(code);
    if (code == -7) why = "it overlaps memory that is registered already";
    if (code == -1) why = "Mooncake calls the range invalid";
    return DriverError("ERR_KVX_MEMORY",
                       "Mooncake refused to register memory " + what + ": " + why + ".");
  }

  // --- Connecting ---

  int64_t open_segment(const EngineAddress& address, Clock::time_point deadline,
                       const std::atomic<bool>& cancelled) {
    auto opening = std::make_shared<Opening>();
    opening->address = address;
    opening->others = tcp_inodes();
    opening->thread = start_thread("kvx-open", [this, opening] {
      int64_t segment = -1;
      std::string failure;
      try {
        // Before there is a connection: what is interrupted must be one to this host.
        auto hosts = addresses_of(opening->address.host());
        {
          const std::lock_guard lock(opening->mutex);
          opening->hosts = std::move(hosts);
        }
        segment = api_.open_segment(engine_, opening->address.name);
      } catch (const std::exception& error) {
        failure = error.what();
      } catch (...) {
        failure = "an unknown reason";
      }
      const std::lock_guard lock(opening->mutex);
      opening->segment = segment;
      opening->failure = failure;
      opening->ended = true;
      opening->ended_wake.notify_all();
    });
    std::unique_lock lock(opening->mutex);
    while (!opening->ended) {
      if (cancelled || Clock::now() >= deadline) {
        interrupt_connections(opening->hosts, address.port(), opening->others);
        lock.unlock();
        const std::lock_guard openings(mutex_);
        given_up_.push_back(std::move(opening));
        throw DriverError(kConnectFailed, "The engine at " + address.name +
                                              " did not answer in time. Is the process stopped, or "
                                              "the port blocked by a firewall?");
      }
      opening->ended_wake.wait_until(
          lock, std::min(deadline, Clock::now() + std::chrono::milliseconds(20)));
    }
    const int64_t segment = opening->segment;
    const std::string failure = opening->failure;
    lock.unlock();
    opening->thread.join();
    if (segment >= 0) return segment;
    throw DriverError(kConnectFailed,
                      "The engine at " + address.name + " cannot be reached" +
                          (failure.empty() ? "" : ": " + failure) +
                          ". Is the process alive, and is that address reachable from here?");
  }

  void check_card(const EngineAddress& address, int64_t segment, const Generation& generation,
                  Clock::time_point deadline, const std::atomic<bool>& cancelled) {
    auto answer = std::make_unique<Card>();
    Card expected;
    generation.copy(expected.generation, sizeof expected.generation);
    if (!tcp_) {
      // RDMA needs the place the bytes go to registered, and fresh keys of the other side.
      api_.refresh_segments(engine_);
      const int code = api_.register_memory(engine_, answer.get(), sizeof(Card), location({}));
      if (code != 0) throw registration_failed(code, "of its own");
    }
    Transfer read = post({{{Operation::kRead, reinterpret_cast<uint64_t>(answer.get()),
                            static_cast<uint64_t>(segment), address.card, sizeof(Card)}}},
                         kConnectFailed);
    State state = State::kPending;
    while ((state = watch(read)) == State::kPending && !cancelled && Clock::now() < deadline) {
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
    if (state == State::kPending || state == State::kFailed) {
      const std::lock_guard lock(mutex_);
      late_answers_.push_back(std::move(answer));  // it may still be written to
      if (state == State::kFailed) throw DriverError(kConnectFailed, read.reason);
      throw DriverError(kConnectFailed,
                        "The engine at " + address.name +
                            " accepted the connection, but did not answer in time.");
    }
    api_.free_batch(engine_, read.batch);
    if (!tcp_) api_.deregister_memory(engine_, answer.get());
    if (state == State::kFailedSettled || !(*answer == expected)) {
      throw DriverError(kConnectFailed,
                        "At " + address.name +
                            " is another engine than the one that was meant: it was closed, or its "
                            "process was replaced.");
    }
  }

  // --- Transfers ---

  Transfer post(std::span<const Request> requests, const char* code) {
    return calling(code, "Mooncake could not take the transfer", [&] {
      Transfer transfer;
      transfer.batch = api_.allocate_batch(engine_, requests.size());
      transfer.left = requests.size();
      transfer.posted = Clock::now();
      const int result = api_.submit(engine_, transfer.batch, requests);
      if (result == 0) return transfer;
      const std::string reason =
          "Mooncake refused the transfer with code " + std::to_string(result);
      // It can be freed only when nothing of it is on its way.
      if (api_.free_batch(engine_, transfer.batch) == 0) throw DriverError(code, reason + ".");
      transfer.reason = reason + " after a part of it was posted.";
      return transfer;
    });
  }

  void leave(int64_t segment, size_t requests) {
    const std::lock_guard lock(mutex_);
    in_flight_[segment] -= requests;
    room_.notify_all();
  }

  // From the last task to the first: those that end last are asked first, so that a batch is not
  // walked through again and again, which Mooncake itself does for every task that it finds
  // completed.
  State watch(Transfer& transfer) {
    while (transfer.left > 0) {
      const TaskState state = api_.status(engine_, transfer.batch, transfer.left - 1);
      if (state == TaskState::kWaiting || state == TaskState::kPending) {
        return transfer.reason.empty() ? State::kPending : State::kFailed;
      }
      if (state != TaskState::kCompleted) fail(transfer, state);
      if (state == TaskState::kTimeout) break;  // never freed, by Mooncake's rules
      transfer.left--;
    }
    if (transfer.reason.empty()) return State::kDone;
    return transfer.unproven ? State::kFailed : State::kFailedSettled;
  }

  void fail(Transfer& transfer, TaskState state) {
    // TCP, with the library's own timeouts off: it was never sent, or the target closed the
    // connection, which it does when its process or engine has ended or when it refuses the
    // address. RDMA: the queue pair is in error.
    const bool proven =
        state == TaskState::kFailed && Clock::now() - transfer.posted < kFailureProves;
    transfer.unproven = transfer.unproven || !proven;
    if (transfer.reason.empty()) {
      transfer.reason =
          "Mooncake reported the transfer as failed: the target's process or engine has ended, "
          "its memory is not registered any more, or it cannot be reached.";
    }
  }

  // --- The end ---

  void take_down() {
    if (!engine_) return;
    for (const auto& opening : given_up_) {
      std::unique_lock lock(opening->mutex);
      while (!opening->ended) {
        interrupt_connections(opening->hosts, opening->address.port(), opening->others);
        opening->ended_wake.wait_for(lock, std::chrono::milliseconds(20));
      }
      lock.unlock();
      opening->thread.join();
    }
    given_up_.clear();
    const bool unsettled = !transfers_.empty();
    bool unproven = false;
    for (const auto& [id, transfer] : transfers_) unproven = unproven || transfer.unproven;

    std::vector<TcpSocket> sockets = tcp_sockets();
    // The thread that waits for handshakes looks only once a second whether it should end; this
    // wakes it.
    for (const TcpSocket& socket : sockets) {
      if (socket.listening && socket.local_port == address_.port()) socket.shut_down();
    }
    try {
      api_.destroy(engine_);
    } catch (...) {
      abandon_reason_ = "Mooncake's engine could not be destroyed.";
    }
    engine_ = nullptr;
    sockets = closed_since(std::move(sockets));

    std::vector<uint16_t> ports;
    for (const TcpSocket& socket : sockets) {
      if (socket.listening) ports.push_back(socket.local_port);
    }
    std::erase_if(sockets,
                  [](const TcpSocket& socket) { return socket.listening; });  // to free the ports
    for (const uint16_t port : ports) reserve_port(port);
    if (!tcp_ || !unsettled) return;
    std::erase_if(sockets, [&](const TcpSocket& socket) {
      return socket.peer_port == 0 ||
             std::find(ports.begin(), ports.end(), socket.local_port) != ports.end();
    });
    const size_t open = await_peer_close(sockets, close_patience_);
    if (open > 0 || unproven) {
      unsettled_reason_ =
          "a target has not read everything that was sent to it; it may be stopped or cut off. "
          "Its own engine has to be closed before its memory is used again.";
    }
  }

  const bool tcp_;
  Library& library_;
  Api& api_;
  const std::chrono::milliseconds close_patience_;
  EngineHandle engine_ = nullptr;
  std::unique_ptr<Card> card_;
  EngineAddress address_{};
  Capabilities capabilities_;
  std::string abandon_reason_;
  std::string unsettled_reason_;

  std::mutex mutex_;
  std::condition_variable room_;
  std::unordered_map<int64_t, size_t> in_flight_;  // requests, by segment
  std::unordered_map<RegionId, uint64_t> regions_;
  std::unordered_map<PeerId, std::shared_ptr<Peer>> peers_;
  std::unordered_map<TransferId, Transfer> transfers_;
  PeerId next_peer_ = 1;
  TransferId next_transfer_ = 1;
  std::deque<std::shared_ptr<Opening>> given_up_;
  std::vector<std::unique_ptr<Card>> late_answers_;
};

}  // namespace

std::unique_ptr<Driver> make_driver(const Options& options, const DriverContext& context) {
  return std::make_unique<MooncakeDriver>(options, context);
}

}  // namespace kvx::mooncake
