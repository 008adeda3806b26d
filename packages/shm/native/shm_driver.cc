#include "shm_driver.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <thread>
#include <utility>

namespace kvx::shm {

namespace {

// Batches of one peer that may wait for the copy threads. More would only make others wait behind
// them.
constexpr size_t kBatchesPerPeer = 4;

[[noreturn]] void refuse(const std::string& reason) {
  throw DriverError("ERR_KVX_CONNECT_FAILED", reason);
}

struct Descriptor {
  uint32_t region;
  uint32_t reserved = 0;
  uint64_t bytes;
};

Capabilities shm_capabilities() {
  Capabilities capabilities;
  capabilities.memory_kinds = {"cpu"};
  capabilities.cross_host = false;
  capabilities.fence = "exit";
  capabilities.max_segment_bytes = 1 << 20;  // so that all copy threads get a share of a long run
  capabilities.max_batch_segments = 1024;
  capabilities.min_efficient_run = 0;  // a run is one memcpy, and staging takes two more
  capabilities.version = "1";
  return capabilities;
}

// Waits until the socket has something to read. Throws at the deadline or when cancelled.
void wait_readable(int socket, Clock::time_point deadline, const std::atomic<bool>& cancelled) {
  for (;;) {
    pollfd entry{socket, POLLIN | POLLRDHUP, 0};
    if (::poll(&entry, 1, 20) > 0) return;
    if (cancelled) refuse("The connect was cancelled.");
    if (Clock::now() >= deadline) refuse("The owner of the memory did not answer in time.");
  }
}

}  // namespace

// Mapped from construction to destruction.
class ShmDriver::Owner {
 public:
  Owner(Generation generation, Fd socket, PeerProcess process)
      : generation(std::move(generation)),
        socket_(std::move(socket)),
        process_(std::move(process)) {}
  ~Owner() {
    for (const auto& [data, bytes] : mappings_) munmap(data, bytes);
    // Then the socket closes, which tells the owner that nothing more can land.
  }

  void map(const Fd& file, uint64_t bytes) {
    struct stat status{};
    const int seals = fcntl(file.get(), F_GET_SEALS);
    if (fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode)) {
      refuse("What the owner handed over is no memory file.");
    }
    if (seals < 0 || (seals & F_SEAL_SHRINK) == 0) {
      refuse(
          "The owner's memory file is not sealed against shrinking: writing to it could end this "
          "process.");
    }
    if (bytes == 0 || static_cast<uint64_t>(status.st_size) < bytes) {
      refuse("The owner's memory file is smaller than its region.");
    }
    void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
    if (data == MAP_FAILED) {
      refuse(std::string("The owner's memory could not be mapped: ") + std::strerror(errno) + ".");
    }
    madvise(data, bytes, MADV_DONTFORK);
    mappings_.emplace_back(static_cast<uint8_t*>(data), bytes);
  }

  uint8_t* data(uint32_t region) const { return mappings_[region].first; }

  // Why nothing can be delivered to it any more; empty while it is there.
  std::string loss() const {
    if (has_exited(process_.pidfd.get())) {
      return "The process " + std::to_string(process_.id) + ", which owns the memory, is gone.";
    }
    if (has_ended(socket_.get())) {
      return "The process " + std::to_string(process_.id) +
             " is ending, or has closed the engine that owns the memory.";
    }
    return "";
  }

  int socket() const { return socket_.get(); }

  const Generation generation;
  size_t waiting = 0;  // batches not yet copied; under the driver's lock

 private:
  Fd socket_;
  PeerProcess process_;
  std::vector<std::pair<uint8_t*, uint64_t>> mappings_;
};

ShmDriver::ShmDriver(const Options& options, DriverContext context)
    : context_(std::move(context)),
      address_(address_here(context_.generation)),
      capabilities_(shm_capabilities()),
      door_(address_,
            [this](const Generation& writer, pid_t process) {
              context_.peer_gone(writer, "The process " + std::to_string(process) +
                                             ", which wrote into this memory, is gone.");
            }),
      watch_([this](PeerId peer) { on_ended(peer); }),
      copier_(static_cast<size_t>(options.number("copyThreads", 1))) {}

ShmDriver::~ShmDriver() = default;

void ShmDriver::register_memory(RegionId id, const Memory& memory, Bytes& descriptor) {
  struct stat status{};
  if (memory.fd < 0 || fstat(memory.fd, &status) != 0) {
    throw DriverError(
        "ERR_KVX_MEMORY",
        "Another process can only map memory that has a memory file: allocate it with "
        "allocate() of '@kvx/native'.");
  }
  const int seals = fcntl(memory.fd, F_GET_SEALS);
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0 ||
      static_cast<uint64_t>(status.st_size) < memory.bytes) {
    throw DriverError("ERR_KVX_MEMORY",
                      "The memory file must hold the whole range and be sealed against shrinking: "
                      "allocate it with allocate() of '@kvx/native'.");
  }
  door_.add_region(id, memory.fd, memory.bytes);
  {
    const std::lock_guard lock(mutex_);
    if (sources_.size() <= id) sources_.resize(id + 1);
    sources_[id] = reinterpret_cast<const uint8_t*>(memory.address);
  }
  const Descriptor content{id, 0, memory.bytes};
  const auto* bytes = reinterpret_cast<const uint8_t*>(&content);
  descriptor.assign(bytes, bytes + sizeof content);
}

void ShmDriver::deregister_memory(RegionId id) {
  door_.remove_region(id);
}

PeerId ShmDriver::connect(const PeerAddress& peer, Clock::time_point deadline,
                          const std::atomic<bool>& cancelled) {
  const Address address = decode(peer.address);
  if (address.boot_id != address_.boot_id) {
    refuse(
        "The owner of the memory runs on another host (or the host was restarted since): shared "
        "memory reaches "
        "one host only. Use another backend between hosts.");
  }
  if (address.pid_namespace != address_.pid_namespace) {
    refuse(
        "The owner of the memory runs in another PID namespace (another container). Start both "
        "with the same one, "
        "or use another backend.");
  }
  if (address.generation != peer.generation) {
    refuse("The address belongs to generation " + address.generation + " and not to " +
           peer.generation + ".");
  }
  Hello hello;
  if (peer.regions.size() > kMaxRegions)
    refuse("The peer has more regions than shared memory can hand over.");
  hello.count = static_cast<uint32_t>(peer.regions.size());
  std::vector<uint64_t> sizes;
  for (size_t i = 0; i < peer.regions.size(); i++) {
    Descriptor descriptor{};
    if (peer.regions[i].size() != sizeof descriptor)
      refuse("A region descriptor is not one of @kvx/shm.");
    std::memcpy(&descriptor, peer.regions[i].data(), sizeof descriptor);
    hello.regions[i] = descriptor.region;
    sizes.push_back(descriptor.bytes);
  }

  Fd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const SocketName name = abstract_name(address.socket);
  while (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&name.storage), name.length) !=
         0) {
    if (errno == EAGAIN && Clock::now() < deadline && !cancelled) {  // its queue is full
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      continue;
    }
    if (errno == ECONNREFUSED) {
      refuse(
          "The owner of the memory is gone: its process has exited or has closed the engine (or "
          "runs in another "
          "network namespace).");
    }
    refuse(std::string("The owner of the memory cannot be reached: ") + std::strerror(errno) + ".");
  }
  PeerProcess process = peer_of(socket.get());
  if (process.user != geteuid()) refuse("The owner of the memory runs as another user.");
  if (!process.pidfd) refuse("The owner of the memory is gone.");

  constexpr const char* kClosedEarly =
      "The owner of the memory closed the connection: it is gone, runs as another user, or has too "
      "many connections.";
  Challenge challenge;
  wait_readable(socket.get(), deadline, cancelled);
  if (receive_message(socket.get(), &challenge, sizeof challenge) != 1 ||
      challenge.magic != kMagic) {
    refuse(kClosedEarly);
  }
  hello.nonce = challenge.nonce;
  if (context_.generation.size() != kGenerationLength ||
      peer.generation.size() != kGenerationLength) {
    refuse("A generation is not 32 hex digits.");
  }
  std::copy_n(context_.generation.begin(), kGenerationLength, hello.writer.begin());
  std::copy_n(peer.generation.begin(), kGenerationLength, hello.owner.begin());
  Reply reply;
  std::vector<Fd> files;
  if (!send_message(socket.get(), &hello, sizeof hello)) refuse(kClosedEarly);
  wait_readable(socket.get(), deadline, cancelled);
  if (receive_message(socket.get(), &reply, sizeof reply, &files) != 1 || reply.magic != kMagic) {
    refuse(kClosedEarly);
  }
  if (reply.accepted == 0) {
    reply.reason.back() = '\0';
    refuse(std::string("The owner of the memory refused: ") + reply.reason.data() + ".");
  }
  if (files.size() != sizes.size())
    refuse("The owner of the memory did not hand over every region.");
  auto owner = std::make_shared<Owner>(peer.generation, std::move(socket), std::move(process));
  for (size_t i = 0; i < files.size(); i++) {
    if (reply.bytes[i] != sizes[i])
      refuse("The owner's region has another size than its descriptor says.");
    owner->map(files[i], sizes[i]);
  }
  PeerId id = 0;
  {
    const std::lock_guard lock(mutex_);
    id = ++last_peer_;
    owners_[id] = owner;
  }
  try {
    watch_.add(id, owner->socket());
  } catch (...) {
    disconnect(id);
    throw;
  }
  return id;
}

void ShmDriver::on_ended(PeerId peer) {
  std::shared_ptr<Owner> owner;
  {
    const std::lock_guard lock(mutex_);
    const auto found = owners_.find(peer);
    if (found == owners_.end()) return;
    owner = found->second;
  }
  const std::string loss = owner->loss();
  if (!loss.empty()) context_.peer_gone(owner->generation, loss);
}

void ShmDriver::disconnect(PeerId peer) {
  watch_.remove(peer);
  std::shared_ptr<Owner> owner;  // unmapped outside the lock
  const std::lock_guard lock(mutex_);
  const auto found = owners_.find(peer);
  if (found == owners_.end()) return;
  owner = std::move(found->second);
  owners_.erase(found);
}

TransferId ShmDriver::submit(PeerId peer, std::span<const Segment> segments,
                             const std::atomic<bool>& cancelled) {
  auto job = std::make_shared<Job>();
  job->pieces.reserve(segments.size());
  std::unique_lock lock(mutex_);
  const auto owner = owners_.at(peer);
  while (owner->waiting >= kBatchesPerPeer) {
    if (cancelled) throw DriverError("ERR_KVX_ABORTED", "The transfer was cancelled.");
    room_.wait_for(lock, std::chrono::milliseconds(5));
  }
  const std::string loss = owner->loss();
  if (!loss.empty()) throw DriverError("ERR_KVX_PEER_LOST", loss);
  for (const Segment& segment : segments) {
    job->pieces.push_back({sources_[segment.source_region] + segment.source_offset,
                           owner->data(segment.destination_region) + segment.destination_offset,
                           segment.bytes});
  }
  const TransferId id = ++last_transfer_;
  job->copied = [this, id] {
    {
      const std::lock_guard guard(mutex_);
      Posted& posted = posted_.at(id);
      posted.copied = true;
      posted.owner->waiting--;
    }
    room_.notify_all();
    context_.wake();
  };
  owner->waiting++;
  posted_[id] = {owner};
  lock.unlock();
  copier_.add(std::move(job));
  return id;
}

State ShmDriver::poll(TransferId transfer, std::string& reason) {
  const std::lock_guard lock(mutex_);
  const Posted& posted = posted_.at(transfer);
  if (!posted.copied) return State::kPending;
  const std::string loss = posted.owner->loss();
  if (loss.empty()) return State::kDone;
  reason = "ERR_KVX_PEER_LOST: " + loss;
  return State::kFailedSettled;
}

void ShmDriver::release(TransferId transfer) {
  const std::lock_guard lock(mutex_);
  posted_.erase(transfer);
}

}  // namespace kvx::shm
