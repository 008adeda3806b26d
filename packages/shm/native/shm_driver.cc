#include "shm_driver.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <span>
#include <thread>
#include <utility>

#include "lanes.h"

namespace kvx::shm {

namespace {

// How long closing waits for copies that run on a GPU.
constexpr std::chrono::milliseconds kStopTime{2000};
// A launch of a GPU is seen to end by asking: a chunk of 64 MiB takes 50 to 200 us between GPUs.
constexpr std::chrono::microseconds kFlightPause{20};
// From so long before a launch is expected to end, and for so long after, it is looked for without
// a pause: a sleep of 20 us takes 70 on a virtual machine. The rest of a long copy costs no core.
constexpr std::chrono::microseconds kEarly{200}, kLate{200};

// Pages of a plan that are spelt out for a GPU in some microseconds.
constexpr uint64_t kFewPages = 8192;

// Batches of one peer that may wait for the copy threads. More would only make others wait behind
// them.
constexpr size_t kBatchesPerPeer = 4;

uint64_t pages_of(const Plan& plan) {
  uint64_t pages = 0;
  for (size_t i = 2; i < plan.groups.size(); i += kGroupWidth) {
    pages += static_cast<uint64_t>(plan.groups[i]);
  }
  return pages * (plan.blocks.size() / kBlockWidth);
}

[[noreturn]] void refuse(const std::string& reason) {
  throw DriverError("ERR_KVX_CONNECT_FAILED", reason);
}

void check_memory_file(const Memory& memory) {
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
}

struct Descriptor {
  uint32_t region;
  uint32_t reserved = 0;
  uint64_t bytes;
  gpu::Uuid gpu{};  // zeros for memory of the host
};

Capabilities shm_capabilities() {
  Capabilities capabilities;
  capabilities.memory_kinds = {"cpu"};
  if (may_have_gpu()) capabilities.memory_kinds.push_back("cuda");
  capabilities.after = may_have_gpu();
  capabilities.cross_host = false;
  capabilities.fence = "exit";
  capabilities.max_segment_bytes = 1 << 20;  // so that all copy threads get a share of a long run
  capabilities.max_batch_segments = 1024;
  capabilities.min_efficient_run = 0;  // a run is one memcpy, and staging takes two more
  capabilities.version = "1";
  return capabilities;
}

gpu::CopySms copy_sms(const Options& options) {
  gpu::CopySms sms;
  const auto set = [&](gpu::Path path, const char* name) {
    unsigned& count = sms.of[static_cast<size_t>(path)];
    count = static_cast<unsigned>(options.number(name, count));
  };
  set(gpu::Path::kPeer, "copySmsPeer");
  set(gpu::Path::kSameGpu, "copySmsSameGpu");
  set(gpu::Path::kToHost, "copySmsToHost");
  set(gpu::Path::kFromHost, "copySmsFromHost");
  return sms;
}

}  // namespace

ShmDriver::ShmDriver(const Options& options, DriverContext context)
    : context_(std::move(context)),
      address_(address_here(context_.generation)),
      capabilities_(shm_capabilities()),
      door_(address_,
            [this](const Generation& writer, pid_t process) {
              context_.peer_gone(writer, "The process " + std::to_string(process) +
                                             ", which wrote into this memory, is gone.");
            }),
      gpus_(std::make_unique<Gpus>(copy_sms(options))),
      watch_([this](PeerId peer) { on_ended(peer); }),
      copier_(static_cast<size_t>(options.number("copyThreads", 1))) {}

ShmDriver::~ShmDriver() {
  if (abandoned_.empty()) return;
  // What a GPU may still read or write stays mapped, and the sockets stay open, so that no owner
  // takes this for an end.
  struct Abandoned {
    decltype(gpus_) gpus;
    decltype(sources_) sources;
    decltype(owners_) owners;
    decltype(posted_) posted;
  };
  new Abandoned{std::move(gpus_), std::move(sources_), std::move(owners_), std::move(posted_)};
}

void ShmDriver::stop() {
  const std::string running = gpus_->stop(kStopTime);
  if (running.empty()) return;
  abandoned_ = running + " What it may still read or write stays mapped until this process ends.";
}

Clock::duration ShmDriver::longest_spin() const {
  const auto now = Clock::now();
  const std::lock_guard lock(mutex_);
  const auto next = ends_.lower_bound(now - kLate);
  const bool soon = next != ends_.end() && *next <= now + kEarly;
  return soon ? Clock::duration::max() : Driver::longest_spin();
}

Clock::duration ShmDriver::longest_pause() const {
  return flying_ > 0 ? kFlightPause : Driver::longest_pause();
}

void ShmDriver::register_memory(RegionId id, const Memory& memory, Bytes& descriptor) {
  Descriptor content{id, 0, memory.bytes};
  if (memory.kind == MemoryKind::kCuda) {
    register_gpu(id, memory);
    content.gpu = gpus_->device(memory.device).uuid;
  } else {
    check_memory_file(memory);
    door_.add_region(id, memory.fd, memory.bytes);
  }
  {
    const std::lock_guard lock(mutex_);
    if (sources_.size() <= id) sources_.resize(id + 1);
    sources_[id] = std::make_shared<Source>(memory);
  }
  const auto* bytes = reinterpret_cast<const uint8_t*>(&content);
  descriptor.assign(bytes, bytes + sizeof content);
}

void ShmDriver::register_gpu(RegionId id, const Memory& memory) {
  const gpu::Uuid& uuid = gpus_->device(memory.device).uuid;
  if (!memory.handle.empty()) {
    constexpr size_t kHandleBytes = 64;
    if (memory.handle.size() != kHandleBytes) {
      throw DriverError("ERR_KVX_MEMORY",
                        "The handle of GPU memory is the 64 bytes of "
                        "cuIpcGetMemHandle, not " +
                            std::to_string(memory.handle.size()) + ".");
    }
    const std::span<const uint8_t, kHandleBytes> handle(memory.handle.data(), kHandleBytes);
    return door_.add_region(id, gpu::share_handle(uuid, handle, memory.offset, memory.bytes));
  }
  if (memory.fd >= 0) {
    return door_.add_region(id, gpu::share_file(uuid, memory.fd, memory.offset, memory.bytes));
  }
  try {
    door_.add_region(id, gpu::share(*gpus_->context(memory.device), memory.address, memory.bytes));
  } catch (const DriverError& error) {
    throw DriverError("ERR_KVX_MEMORY", error.what());
  }
}

void ShmDriver::deregister_memory(RegionId id) {
  door_.remove_region(id);
  std::shared_ptr<Source> source;  // what it has pinned is given back outside the lock
  const std::lock_guard lock(mutex_);
  source = std::move(sources_[id]);
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
  std::vector<Descriptor> regions(peer.regions.size());
  for (size_t i = 0; i < regions.size(); i++) {
    if (peer.regions[i].size() != sizeof regions[i])
      refuse("A region descriptor is not one of @kvx/shm.");
    std::memcpy(&regions[i], peer.regions[i].data(), sizeof regions[i]);
    if (regions[i].gpu != gpu::Uuid{} && !may_have_gpu()) {
      refuse("Region " + std::to_string(i) + " of the owner is memory of " +
             gpu::text(regions[i].gpu) + ", and this process has no CUDA driver.");
    }
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

  if (context_.generation.size() != kGenerationLength ||
      peer.generation.size() != kGenerationLength) {
    refuse("A generation is not 32 hex digits.");
  }
  Challenge challenge;
  wait_readable(socket.get(), deadline, cancelled);
  if (receive_message(socket.get(), &challenge, sizeof challenge) != 1 ||
      challenge.magic != kMagic) {
    refuse(kClosedEarly);
  }
  Request hello;
  hello.nonce = challenge.nonce;
  std::copy_n(context_.generation.begin(), kGenerationLength, hello.writer.begin());
  std::copy_n(peer.generation.begin(), kGenerationLength, hello.owner.begin());
  ask(socket.get(), hello, deadline, cancelled);
  auto owner = std::make_shared<Owner>(peer.generation, std::move(socket), std::move(process));
  for (const Descriptor& region : regions) {
    owner->add(region.region, region.bytes, deadline, cancelled);
  }
  prepare(*owner);
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

// What takes a while is done before the first write: mapping the owner's GPU memory, and pinning
// memory of the host where every write between the two needs it.
void ShmDriver::prepare(Owner& owner) {
  const auto here = sources();
  const auto is_gpu = [](const auto& source) { return source->gpu() != gpu::Place::kHost; };
  const bool only_gpu_here = !here.empty() && std::all_of(here.begin(), here.end(), is_gpu);
  const bool only_host_here = std::none_of(here.begin(), here.end(), is_gpu);
  for (uint32_t there = 0; there < owner.regions(); there++) {
    for (const auto& source : here) {
      if (!is_gpu(source) && !only_host_here) continue;
      if (!owner.gpu(there) && !only_gpu_here) continue;
      const auto copier = gpu_of(owner, *source, there);
      if (!copier) continue;
      gpus_->copier(*copier);
      const auto context = gpus_->context(*copier);
      source->place(context);
      owner.place(there, context, *gpus_);
    }
  }
}

// The GPU that copies, or nothing between memory of the host: the source's, or for memory of the
// host the destination's. One that this process does not see is written to by the first that it
// does.
std::optional<int> ShmDriver::gpu_of(const Owner& owner, const Source& source,
                                     uint32_t destination) const {
  if (source.gpu() != gpu::Place::kHost) return source.gpu();
  const auto there = owner.gpu(destination);
  if (!there) return std::nullopt;
  return gpus_->ordinal_of(*there).value_or(0);
}

std::vector<std::shared_ptr<Source>> ShmDriver::sources() const {
  std::vector<std::shared_ptr<Source>> all;
  const std::lock_guard lock(mutex_);
  for (const auto& source : sources_) {
    if (source) all.push_back(source);
  }
  return all;
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

std::optional<PostedLanes> ShmDriver::submit_lanes(PeerId peer, Plan& plan,
                                                   const std::atomic<bool>& cancelled) {
  std::shared_ptr<Owner> owner;
  std::vector<std::shared_ptr<Source>> sources;  // by region
  {
    const std::lock_guard lock(mutex_);
    owner = owners_.at(peer);
    sources = sources_;
  }
  const auto lanes = take_gpu_lanes(plan, [&](uint32_t source, uint32_t destination) {
    return gpu_of(*owner, *sources[source], destination);
  });
  if (lanes.empty()) return std::nullopt;
  const std::string loss = owner->loss();
  if (!loss.empty()) throw DriverError("ERR_KVX_PEER_LOST", loss);
  Posted posted{owner, true};
  PostedLanes result{0, 0};
  std::chrono::microseconds expected{0};
  for (const GpuLanes& each : lanes) {
    try {
      gpu::Copier& copier = gpus_->copier(each.gpu);
      const auto context = gpus_->context(each.gpu);
      const auto from = [&](uint32_t region) { return sources[region]->place(context); };
      const auto to = [&](uint32_t region) { return owner->place(region, context, *gpus_); };
      const gpu::Batch batch = gpu::batch_of(each.plan, from, to, each.gpu);
      posted.flights.push_back({&copier, copier.submit(batch, {}, cancelled)});
      result.segments += each.segments;
      expected = std::max(expected, gpu::expected_time(batch));
    } catch (const DriverError& error) {
      // With nothing launched it is as if nothing had been submitted.
      if (posted.flights.empty()) throw;
      posted.failure = error.code() + ": " + error.what();
      break;
    }
  }
  result.transfer = fly(std::move(posted), expected);
  return result;
}

bool ShmDriver::submits_now(PeerId peer) const {
  const std::lock_guard lock(mutex_);
  return owners_.at(peer)->has_gpu();
}

// From memory of one GPU to memory of GPUs that it has mapped: one launch. An owner that is gone is
// left to submit_lanes: its memory stays mapped here, and may be in use again.
std::optional<PostedLanes> ShmDriver::submit_now(PeerId peer, const Plan& plan) {
  if (pages_of(plan) > kFewPages) return std::nullopt;
  Posted posted{nullptr, true};
  gpu::Batch batch;
  std::optional<int> ordinal;
  {
    const std::lock_guard lock(mutex_);
    const Owner& owner = *(posted.owner = owners_.at(peer));
    const auto is_mapped = [&](uint32_t source, uint32_t destination) -> std::optional<int> {
      const int gpu = sources_[source]->gpu();
      const bool mapped = gpu != gpu::Place::kHost && owner.mapped(destination, gpu, *gpus_);
      return mapped ? std::optional(gpu) : std::nullopt;
    };
    ordinal = only_gpu(plan, is_mapped);
    if (!ordinal) return std::nullopt;
    batch = gpu::batch_of(
        plan, [&](uint32_t region) { return sources_[region]->on_gpu(); },
        [&](uint32_t region) { return *owner.mapped(region, *ordinal, *gpus_); }, *ordinal);
  }
  gpu::Copier* const copier = gpus_->ready_copier(*ordinal);
  if (copier == nullptr || !posted.owner->loss().empty()) return std::nullopt;
  const auto ticket = copier->submit_now(batch);
  if (!ticket) return std::nullopt;
  posted.flights.push_back({copier, *ticket});
  return PostedLanes{fly(std::move(posted), gpu::expected_time(batch)), gpu::runs_of(batch)};
}

TransferId ShmDriver::fly(Posted posted, std::chrono::microseconds expected) {
  const std::lock_guard lock(mutex_);
  const TransferId transfer = ++last_transfer_;
  flying_++;
  // Copies of one path follow each other; of two paths the one expects the other's time too.
  last_end_ = std::max(last_end_, Clock::now()) + expected;
  posted.end = ends_.insert(last_end_);
  posted_[transfer] = std::move(posted);
  return transfer;
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
    job->pieces.push_back({sources_[segment.source_region]->data() + segment.source_offset,
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
  Posted* posted = nullptr;
  {
    const std::lock_guard lock(mutex_);
    posted = &posted_.at(transfer);  // stays where it is until release
    if (!posted->copied) return State::kPending;
  }
  auto& flights = posted->flights;
  while (!flights.empty()) {
    const auto [copier, ticket] = flights.back();
    const State state = copier->poll(ticket, reason);
    if (state == State::kPending || state == State::kFailed) return state;
    if (state == State::kFailedSettled && posted->failure.empty()) posted->failure = reason;
    copier->release(ticket);
    flights.pop_back();
    if (!flights.empty()) continue;
    flying_--;
    const std::lock_guard lock(mutex_);
    ends_.erase(posted->end);
    if (ends_.empty()) last_end_ = {};
  }
  const std::string loss = posted->owner->loss();
  if (loss.empty() && posted->failure.empty()) return State::kDone;
  reason = loss.empty() ? posted->failure : "ERR_KVX_PEER_LOST: " + loss;
  return State::kFailedSettled;
}

void ShmDriver::release(TransferId transfer) {
  std::shared_ptr<Owner> owner;  // the last one unmaps, outside the lock
  const std::lock_guard lock(mutex_);
  const auto found = posted_.find(transfer);
  owner = std::move(found->second.owner);
  posted_.erase(found);
}

}  // namespace kvx::shm
