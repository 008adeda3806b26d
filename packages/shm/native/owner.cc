#include "owner.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace kvx::shm {

namespace {

// Of a GPU that this process does not see: the number of none that it does.
constexpr int kForeignGpu = 1 << 20;

[[noreturn]] void refuse(const std::string& reason) {
  throw DriverError("ERR_KVX_CONNECT_FAILED", reason);
}

}  // namespace

void wait_readable(int socket, Clock::time_point deadline, const std::atomic<bool>& cancelled) {
  for (;;) {
    pollfd entry{socket, POLLIN | POLLRDHUP, 0};
    if (::poll(&entry, 1, 20) > 0) return;
    if (cancelled) refuse("The connect was cancelled.");
    if (Clock::now() >= deadline) refuse("The owner of the memory did not answer in time.");
  }
}

Reply ask(int socket, const Request& request, Clock::time_point deadline,
          const std::atomic<bool>& cancelled, std::vector<Fd>* files) {
  Reply reply;
  if (!send_message(socket, &request, sizeof request)) refuse(kClosedEarly);
  wait_readable(socket, deadline, cancelled);
  if (receive_message(socket, &reply, sizeof reply, files) != 1 || reply.magic != kMagic) {
    refuse(kClosedEarly);
  }
  if (reply.accepted == 0) {
    reply.reason.back() = '\0';
    refuse(std::string("The owner of the memory refused: ") + reply.reason.data() + ".");
  }
  return reply;
}

Owner::Owner(Generation generation, Fd socket, PeerProcess process)
    : generation(std::move(generation)), socket_(std::move(socket)), process_(std::move(process)) {}

Owner::~Owner() {
  for (Region& region : regions_) {
    region.imported.clear();
    region.pinned.clear();
    if (region.data != nullptr) munmap(region.data, region.bytes);
  }
  say(Request::kRelease);
}

void Owner::add(RegionId id, uint64_t bytes, Clock::time_point deadline,
                const std::atomic<bool>& cancelled) {
  Request request;
  request.kind = Request::kRegion;
  request.region = id;
  std::vector<Fd> files;
  const Reply reply = ask(socket_.get(), request, deadline, cancelled, &files);
  if (reply.bytes != bytes) refuse("The owner's region has another size than its descriptor says.");
  Region& region = regions_.emplace_back();
  region.bytes = bytes;
  if (reply.shared_length == 0) {
    if (files.size() != 1) refuse("The owner of the memory did not hand over every region.");
    return map(region, files[0]);
  }
  if (reply.shared_length > reply.shared.size()) refuse("The owner's answer is malformed.");
  gpu::Shared shared = gpu::decode({reply.shared.data(), reply.shared_length});
  if (shared.bytes != bytes || shared.files() != files.size()) {
    refuse("The owner of the memory did not hand over every region.");
  }
  for (size_t i = 0; i < files.size(); i++) shared.parts[i].file = std::move(files[i]);
  region.shared = std::move(shared);
}

void Owner::map(Region& region, const Fd& file) {
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
  if (region.bytes == 0 || static_cast<uint64_t>(status.st_size) < region.bytes) {
    refuse("The owner's memory file is smaller than its region.");
  }
  void* data = mmap(nullptr, region.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
  if (data == MAP_FAILED) {
    refuse(std::string("The owner's memory could not be mapped: ") + std::strerror(errno) + ".");
  }
  madvise(data, region.bytes, MADV_DONTFORK);
  // Where the system offers them: whoever touches a page first decides.
  madvise(data, region.bytes, MADV_HUGEPAGE);
  region.data = static_cast<uint8_t*>(data);
}

std::optional<gpu::Uuid> Owner::gpu(uint32_t region) const {
  const auto& shared = regions_[region].shared;
  return shared ? std::optional(shared->gpu) : std::nullopt;
}

bool Owner::has_gpu() const {
  return std::any_of(regions_.begin(), regions_.end(),
                     [](const Region& region) { return region.shared.has_value(); });
}

gpu::Place Owner::place(uint32_t number, const std::shared_ptr<gpu::Context>& context,
                        const Gpus& gpus) {
  // Before the GPU can reach anything: the owner has to know what its end depends on.
  if (!said_gpu_) say(Request::kGpu);
  said_gpu_ = true;
  Region& region = regions_[number];
  if (!region.shared) {
    auto& pinned = region.pinned[context->ordinal()];
    if (!pinned) pinned = std::make_unique<gpu::HostMemory>(context, region.data, region.bytes);
    return {pinned->address(), gpu::Place::kHost};
  }
  auto& imported = region.imported[context->ordinal()];
  if (!imported) {
    imported =
        importers_.try_emplace(context->ordinal(), context).first->second.map(*region.shared);
  }
  return {imported->address(), gpus.ordinal_of(region.shared->gpu).value_or(kForeignGpu)};
}

std::optional<gpu::Place> Owner::mapped(uint32_t number, int ordinal, const Gpus& gpus) const {
  const Region& region = regions_[number];
  const auto found = region.imported.find(ordinal);
  if (found == region.imported.end()) return std::nullopt;
  return gpu::Place{found->second->address(),
                    gpus.ordinal_of(region.shared->gpu).value_or(kForeignGpu)};
}

std::string Owner::loss() const {
  pollfd signs[] = {{process_.pidfd.get(), POLLIN, 0}, {socket_.get(), POLLRDHUP, 0}};
  if (poll(signs, 2, 0) <= 0) return "";
  if (signs[0].revents != 0) {
    return "The process " + std::to_string(process_.id) + ", which owns the memory, is gone.";
  }
  if (signs[1].revents != 0) {
    return "The process " + std::to_string(process_.id) +
           " is ending, or has closed the engine that owns the memory.";
  }
  return "";
}

// To an owner that is gone nothing needs to be said.
void Owner::say(Request::Kind kind) {
  Request request;
  request.kind = kind;
  send_message(socket_.get(), &request, sizeof request);
}

}  // namespace kvx::shm
