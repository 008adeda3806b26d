#include "driver.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <tuple>

#include "library.h"
#include "network.h"
#include "wire.h"

namespace kvx::mori {
namespace {

// Larger ones are cut: soft-RoCE takes 8 MiB, real devices take 1 or 2 GiB, MORI counts in 32 bits.
constexpr uint64_t kLargestMessage = 8u << 20;
// A queue pair of MORI holds 8,192 work requests; a batch must fit even when all of it goes to one.
constexpr uint64_t kLargestBatch = 4096;
// Less than this is not worth another rail.
constexpr uint64_t kSmallestShare = 128u << 10;

// By which MORI knows an engine, and a writer knows that it is the one that was meant.
std::string key_of(const Generation& generation) {
  return "kvx-" + generation;
}

// How much of a segment goes to a rail with so much left of its share. A segment is cut only where
// both pieces are worth it, and at a page.
uint64_t first_piece(uint64_t segment, uint64_t left) {
  const uint64_t cut = left & ~uint64_t{4095};
  return cut >= kSmallestShare && cut + kSmallestShare <= segment ? cut : segment;
}

[[noreturn]] void unavailable(const std::string& message) {
  throw DriverError("ERR_KVX_BACKEND_UNAVAILABLE", message);
}
[[noreturn]] void connect_failed(const std::string& message) {
  throw DriverError("ERR_KVX_CONNECT_FAILED", message);
}

bool variable_is(const char* name, std::initializer_list<const char*> values) {
  const char* value = std::getenv(name);
  if (!value) return false;
  return std::any_of(values.begin(), values.end(),
                     [&](const char* one) { return std::strcmp(value, one) == 0; });
}

// The text of a work completion that tells of a retry limit: the peer's machine or process is gone.
constexpr int kRetryExceeded = 12;

}  // namespace

MoriDriver::MoriDriver(const Options& options, const DriverContext& context)
    : version_(options.text("version")),
      rail_count_(static_cast<size_t>(options.number("qpPerTransfer", 4))),
      failures_settle_(!(std::getenv("MORI_IO_QP_PER_TRANSFER") ||
                         std::getenv("MORI_IO_NUM_NICS_PER_TRANSFER") ||
                         std::getenv("MORI_IO_NUM_WORKER_THREADS")) &&
                       variable_is("MORI_IO_FAIL_ON_ASYNC_EVENT", {"0", "false"})) {
  if (std::getenv("MORI_IO_POLL_CQ_MODE") &&
      !variable_is("MORI_IO_POLL_CQ_MODE", {"0", "polling"})) {
    unavailable(
        "MORI_IO_POLL_CQ_MODE asks for event mode, in which MORI closes the standard input of the "
        "process when an "
        "engine ends, and saves nothing. Unset it.");
  }
  api_ = &load({options.text("library"), options.text("standIns"), options.text("verbs")});

  const std::string host = options.text("host");
  if (const std::string reason = cannot_listen(host); !reason.empty()) {
    unavailable("MORI cannot listen on " + host + ": " + reason +
                ". Set the option host (KVX_MORI_HOST) to an IPv4 address of this machine that "
                "peers can reach.");
  }
  const std::vector<Device> all = list_devices();
  for (const Device& device : all) {
    if (!has_pci_address(device.path)) {
      unavailable(
          "The RDMA device " + device.name + " (" + device.path +
          ") is not on a PCI bus. MORI would look for its PCI address for ever, also when other "
          "devices "
          "are chosen. Remove the device, or see docs/engines/mori.md on software devices.");
    }
  }
  devices_ = usable_devices(all);
  if (devices_.empty()) {
    std::string names;
    for (const Device& device : all) names += (names.empty() ? "" : ", ") + device.name;
    unavailable(all.empty() ? "This machine has no RDMA device (ibv_devinfo lists none). Without "
                              "one, use the backend "
                              "mooncake (TCP) or, on one machine, shm."
                            : "No usable RDMA device: of " + names +
                                  " none has an active port, or none is among the chosen devices.");
  }
  uint64_t largest = kLargestMessage;
  const auto page = std::make_unique<unsigned char[]>(4096);
  for (const Device& device : devices_) {
    largest = std::min<uint64_t>(largest, device.max_message);
    const auto reason = try_registration(device, reinterpret_cast<uint64_t>(page.get()), 4096);
    if (!reason.empty()) unavailable("Memory cannot be registered for RDMA: " + reason);
  }

  RdmaConfig config;
  config.post_batch_size = static_cast<int>(options.number("postBatchSize", -1));
  // MORI merges neighbours into work requests beyond the device's limit and then refuses them: cut
  // them again.
  config.enable_chunking = true;
  config.chunk_bytes = largest;
  config.max_chunks = 1;

  // Before the engine: when a thread cannot be made there must be nothing to take down.
  posters_ = std::make_unique<Posters>(static_cast<size_t>(options.number("numWorkers", 1)));
  engine_ = std::make_unique<unsigned char[]>(kEngineBytes);
  api_->engine_construct(engine_.get(), key_of(context.generation), EngineConfig{host, 0});
  try {
    api_->create_backend(engine_.get(), BackendType::kRdma, config);
  } catch (const std::exception& error) {
    api_->engine_destroy(engine_.get());
    unavailable(std::string("MORI could not start its RDMA engine: ") + error.what());
  }
  capabilities_.memory_kinds = {"cpu"};
  if (options.flag("gpu", false)) capabilities_.memory_kinds.push_back("hip");
  capabilities_.cross_host = true;
  capabilities_.fence = "engine";
  capabilities_.max_segment_bytes = largest;
  capabilities_.max_batch_segments = kLargestBatch;
  capabilities_.min_efficient_run = 4096;
  capabilities_.version = version_;
}

// Closing as a fence. Deregistration revokes each region's key; then MORI destroys its queue pairs,
// after which the device neither sends nor takes a byte for them. (MORI keeps small registrations
// of its own for each queue pair it ever made; nobody is told their keys.)
MoriDriver::~MoriDriver() {
  posters_.reset();
  peers_.clear();
  for (auto& [id, transfer] : transfers_) {
    for (auto& part : transfer->parts) part->session.reset();
  }
  const auto quietly = [](auto body) {
    try {
      body();
    } catch (const std::exception&) {
      // Nothing can be done about it, and a destructor has nobody to tell.
    }
  };
  for (const auto& [id, desc] : regions_) {
    quietly([&] { api_->deregister_memory(engine_.get(), desc); });
  }
  quietly([&] { api_->engine_destroy(engine_.get()); });
  // Only now: until here MORI may have written to a status of a transfer that never ended.
  transfers_.clear();
}

EngineDesc MoriDriver::own_desc() const {
  return reinterpret_cast<const EngineHead*>(engine_.get())->desc;
}

Bytes MoriDriver::address() const {
  return wire::encode(EngineAddress{version_, own_desc()});
}

void MoriDriver::register_memory(RegionId id, const Memory& memory, Bytes& descriptor) {
  if (memory.kind == MemoryKind::kCuda) {
    throw DriverError("ERR_KVX_MEMORY",
                      "MORI moves CPU memory and memory of AMD GPUs, not CUDA memory.");
  }
  const bool gpu = memory.kind == MemoryKind::kHip;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [other, desc] : regions_) {
      if (desc.data == memory.address) {
        throw DriverError("ERR_KVX_MEMORY",
                          "A region that begins at the same address is already registered; "
                          "MORI tells registrations apart by where they begin.");
      }
    }
  }
  if (!gpu) {
    for (const Device& device : devices_) {
      const std::string reason = try_registration(device, memory.address, memory.bytes);
      if (!reason.empty())
        throw DriverError("ERR_KVX_MEMORY", "Memory cannot be registered: " + reason);
    }
  }
  try {
    const MemoryDesc desc = api_->register_memory(
        engine_.get(), reinterpret_cast<void*>(memory.address), memory.bytes,
        gpu ? memory.device : -1, gpu ? MemoryLocation::kGpu : MemoryLocation::kCpu);
    // MORI registers with the device when a peer first asks, and aborts when that fails then. A
    // session with ourselves makes it happen now, right after it was tried.
    try {
      Rail self{own_desc(), {}};
      self.desc.key += "/self";
      api_->register_remote(engine_.get(), self.desc);
      make_session(desc, desc, self);
    } catch (const std::exception&) {
      // Nobody would ever give it back, and the memory could not be registered again.
      api_->deregister_memory(engine_.get(), desc);
      throw;
    }
    const std::lock_guard lock(mutex_);
    regions_[id] = desc;
    descriptor = wire::encode(desc);
  } catch (const std::exception& error) {
    throw DriverError("ERR_KVX_MEMORY",
                      std::string("MORI refused to register the memory: ") + error.what());
  }
}

void MoriDriver::deregister_memory(RegionId id) {
  MemoryDesc desc;
  {
    const std::lock_guard lock(mutex_);
    desc = regions_.at(id);
    regions_.erase(id);
    for (auto& [peer_id, peer] : peers_) {
      const std::lock_guard sessions(peer->mutex);
      for (Rail& rail : peer->rails) {
        std::erase_if(rail.sessions, [id](const auto& entry) { return entry.first.first == id; });
      }
    }
  }
  try {
    api_->deregister_memory(engine_.get(), desc);
  } catch (const std::exception& error) {
    throw DriverError("ERR_KVX_MEMORY",
                      std::string("MORI could not deregister the memory: ") + error.what());
  }
}

PeerId MoriDriver::connect(const PeerAddress& address, Clock::time_point deadline,
                           const std::atomic<bool>& cancelled) {
  const EngineAddress remote = wire::decode_address(address.address);
  if (remote.mori_version != version_) {
    throw DriverError(
        "ERR_KVX_BACKEND_MISMATCH",
        "The peer uses MORI " + remote.mori_version + ", this side " + version_ +
            ". Both must use the same version: what MORI sends differs between them.");
  }
  if (remote.desc.key != key_of(address.generation)) {
    connect_failed("The address is that of another engine than the one that was meant.");
  }
  const auto peer = std::make_shared<Peer>();
  peer->name = remote.desc.host + ":" + std::to_string(remote.desc.port);
  for (const Bytes& region : address.regions) {
    peer->regions.push_back(wire::decode_memory(region));
    if (peer->regions.back().engine_key != remote.desc.key) {
      connect_failed("A region descriptor belongs to another engine than the peer's address.");
    }
  }
  // MORI's own connect waits for the kernel's time-out and holds up all others meanwhile.
  if (const auto reason = cannot_reach(remote.desc.host, remote.desc.port, deadline, cancelled);
      !reason.empty()) {
    connect_failed("MORI's control port of the peer at " + peer->name +
                   " cannot be reached: " + reason + ".");
  }
  PeerId id = 0;
  std::map<RegionId, MemoryDesc> locals;
  {
    const std::lock_guard lock(mutex_);
    id = next_peer_++;
    locals = regions_;
  }
  try {
    for (size_t i = 0; i < rail_count_; i++) {
      // MORI keeps queue pairs by the peer's name, dead ones too: every connect uses names of its
      // own.
      Rail rail{remote.desc, {}};
      rail.desc.key += "/" + std::to_string(id) + "." + std::to_string(i);
      api_->register_remote(engine_.get(), rail.desc);
      peer->rails.push_back(std::move(rail));
      for (const auto& [local, desc] : locals) {
        for (uint32_t region = 0; region < peer->regions.size(); region++) {
          if (cancelled) connect_failed("The connect was given up.");
          if (Clock::now() > deadline)
            connect_failed("The peer at " + peer->name + " did not answer in time.");
          session(*peer, peer->rails.back(), local, region);
        }
      }
    }
  } catch (const DriverError&) {
    forget(*peer);
    throw;
  } catch (const std::exception& error) {
    forget(*peer);
    connect_failed("MORI could not connect to the peer at " + peer->name + ": " + error.what());
  }
  const std::lock_guard lock(mutex_);
  peers_[id] = peer;
  return id;
}

// The queue pairs stay until the engine ends: MORI has no way to give back one peer's.
void MoriDriver::forget(Peer& peer) {
  for (const Rail& rail : peer.rails) {
    try {
      api_->deregister_remote(engine_.get(), rail.desc);
    } catch (const std::exception&) {
      // It only forgets the peer's address.
    }
  }
  const std::lock_guard lock(peer.mutex);
  for (Rail& rail : peer.rails) rail.sessions.clear();
}

void MoriDriver::disconnect(PeerId id) {
  std::shared_ptr<Peer> peer;
  {
    const std::lock_guard lock(mutex_);
    peer = std::move(peers_[id]);
    peers_.erase(id);
  }
  if (peer) forget(*peer);
}

std::shared_ptr<Session> MoriDriver::make_session(const MemoryDesc& local, MemoryDesc remote,
                                                  const Rail& rail) {
  remote.engine_key = rail.desc.key;
  auto session = api_->create_session(engine_.get(), local, remote);
  if (!session) throw std::runtime_error("it has no RDMA path between the two memories");
  return std::make_shared<Session>(std::move(*session));
}

std::shared_ptr<Session> MoriDriver::session(Peer& peer, Rail& rail, RegionId local,
                                             uint32_t remote) {
  const auto key = std::make_pair(local, remote);
  {
    const std::lock_guard lock(peer.mutex);
    const auto found = rail.sessions.find(key);
    if (found != rail.sessions.end()) return found->second;
  }
  MemoryDesc desc;
  {
    const std::lock_guard lock(mutex_);
    const auto found = regions_.find(local);
    if (found == regions_.end())
      throw DriverError("ERR_KVX_PLAN_INVALID", "The source region is not registered.");
    desc = found->second;
  }
  const auto made = make_session(desc, peer.regions.at(remote), rail);
  const std::lock_guard lock(peer.mutex);
  return rail.sessions[key] = made;
}

std::shared_ptr<MoriDriver::Peer> MoriDriver::peer(PeerId id) {
  const std::lock_guard lock(mutex_);
  return peers_.at(id);
}

TransferId MoriDriver::submit(PeerId id, std::span<const Segment> segments,
                              const std::atomic<bool>&) {
  const auto peer = this->peer(id);
  if (peer->failed) {
    const std::lock_guard lock(peer->mutex);
    throw DriverError("ERR_KVX_PEER_LOST", "The link to " + peer->name + " failed earlier (" +
                                               peer->failure + "); connect again.");
  }
  uint64_t total = 0;
  for (const Segment& segment : segments) total += segment.bytes;
  const uint64_t share = std::max(kSmallestShare, total / rail_count_ + 1);

  // Rails take equal shares of the bytes, in the order of the segments, so that neighbours stay
  // together.
  auto transfer = std::make_unique<Transfer>();
  transfer->peer = peer;
  using Key = std::tuple<size_t, RegionId, uint32_t>;  // turn, regions
  std::map<Key, Part*> parts;
  const uint32_t first = peer->next_rail++;
  uint64_t given = 0;
  try {
    for (Segment rest : segments) {
      while (rest.bytes > 0) {
        const size_t turn = given / share;
        Part*& part = parts[{turn, rest.source_region, rest.destination_region}];
        if (!part) {
          transfer->parts.push_back(std::make_unique<Part>());
          part = transfer->parts.back().get();
          Rail& rail = peer->rails[(first + turn) % rail_count_];
          part->session = session(*peer, rail, rest.source_region, rest.destination_region);
        }
        const uint64_t bytes = first_piece(rest.bytes, (turn + 1) * share - given);
        part->source.push_back(rest.source_offset);
        part->destination.push_back(rest.destination_offset);
        part->sizes.push_back(bytes);
        rest.source_offset += bytes;
        rest.destination_offset += bytes;
        rest.bytes -= bytes;
        given += bytes;
      }
    }
  } catch (const DriverError&) {
    throw;
  } catch (const std::exception& error) {
    throw DriverError("ERR_KVX_TRANSFER_FAILED", "MORI has no session with " + peer->name +
                                                     " for these regions: " + error.what());
  }
  posters_->run(transfer->parts.size(), [&](size_t i) { post(*transfer->parts[i]); });
  const std::lock_guard lock(mutex_);
  const TransferId transfer_id = next_transfer_++;
  transfers_[transfer_id] = std::move(transfer);
  return transfer_id;
}

void MoriDriver::post(Part& part) {
  TransferStatus& status = part.status;
  try {
    api_->batch_write(part.session.get(), part.source, part.destination, part.sizes, &status,
                      api_->allocate_id(part.session.get()));
  } catch (const std::exception& error) {
    part.certain = false;
    const std::lock_guard lock(status.mutex);
    status.message = error.what();
    status.code = Code::kBadState;
    return;
  }
  part.source = part.destination = part.sizes = {};
  const Code code = status.code;
  if (code <= Code::kErrorsBegin && code != Code::kInit) {
    part.certain = failures_settle_;
    return;
  }
  const std::lock_guard lock(status.mutex);
  if (code == Code::kInit) {
    status.message = "MORI took the transfer and did nothing with it";
    status.code = Code::kBadState;
    part.certain = false;
  } else if (code == Code::kRdma) {
    // Either a work completion was faster than this thread, or posting stopped half way (a full
    // queue): then what was posted before is still under way.
    part.certain = failures_settle_ && names_completion(status.message);
  } else {
    part.certain = true;  // refused before anything was posted
  }
}

void MoriDriver::fail_peer(Peer& peer, const std::string& reason) {
  const std::lock_guard lock(peer.mutex);
  if (peer.failed) return;
  peer.failure = reason;
  peer.failed = true;
}

State MoriDriver::poll(TransferId id, std::string& reason) {
  Transfer* transfer = nullptr;
  {
    const std::lock_guard lock(mutex_);
    transfer = transfers_.at(id).get();
  }
  bool under_way = false, failed = false;
  for (const auto& part : transfer->parts) {
    const Code code = part->status.code.load(std::memory_order_acquire);
    if (code == Code::kSuccess) continue;
    if (code <= Code::kErrorsBegin) {
      under_way = true;
      continue;
    }
    under_way |= !part->certain;
    if (failed) continue;
    failed = true;
    const std::lock_guard lock(part->status.mutex);
    const std::string& text = part->status.message;
    const bool gone = text.find(completion_text(kRetryExceeded)) != std::string::npos;
    reason = std::string(gone ? "ERR_KVX_PEER_LOST: " : "ERR_KVX_TRANSFER_FAILED: ") +
             "writing to " + transfer->peer->name + " failed: " + text;
    if (code == Code::kRdma) fail_peer(*transfer->peer, text);
  }
  if (failed) return under_way ? State::kFailed : State::kFailedSettled;
  return under_way ? State::kPending : State::kDone;
}

void MoriDriver::release(TransferId id) {
  const std::lock_guard lock(mutex_);
  transfers_.erase(id);
}

}  // namespace kvx::mori
