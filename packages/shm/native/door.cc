#include "door.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "kvx/thread.h"

namespace kvx::shm {

namespace {

constexpr size_t kMaxStrangers = 64;  // connections that have not said hello
constexpr std::chrono::seconds kHelloTime{5};
// A process closes its sockets before it counts as exited, and a writer that lives may close its
// link: which of the two it was shows within this time.
constexpr std::chrono::seconds kExitTime{5};

void watch(int events, int fd, uint32_t mask, uint64_t mark) {
  epoll_event event{};
  event.events = mask;
  event.data.u64 = mark;
  epoll_ctl(events, EPOLL_CTL_ADD, fd, &event);
}

// While the process has no descriptor left, connections wait in the queue for so long.
constexpr std::chrono::milliseconds kAcceptPause{50};

}  // namespace

Door::Door(const Address& address, std::function<void(const Generation&, pid_t)> exited)
    : generation_(address.generation), exited_(std::move(exited)) {
  listener_ = Fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  stop_ = Fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  events_ = Fd(epoll_create1(EPOLL_CLOEXEC));
  const SocketName name = abstract_name(address.socket);
  if (!listener_ || !stop_ || !events_ ||
      bind(listener_.get(), reinterpret_cast<const sockaddr*>(&name.storage), name.length) != 0 ||
      listen(listener_.get(), SOMAXCONN) != 0) {
    throw DriverError("ERR_KVX_BACKEND_UNAVAILABLE",
                      std::string("The socket that hands out memory could not be opened: ") +
                          std::strerror(errno) + ".");
  }
  watch(events_.get(), listener_.get(), EPOLLIN, kListener);
  watch(events_.get(), stop_.get(), EPOLLIN, kStop);
  thread_ = start_thread("kvx-shm-door", [this] { run(); });
}

Door::~Door() {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(stop_.get(), &one, sizeof one);
  thread_.join();
}

void Door::add_region(RegionId id, int file, uint64_t bytes) {
  Fd copy(fcntl(file, F_DUPFD_CLOEXEC, 0));
  if (!copy) {
    throw DriverError("ERR_KVX_MEMORY", std::string("The memory file could not be duplicated: ") +
                                            std::strerror(errno) + ".");
  }
  const std::lock_guard lock(mutex_);
  regions_[id] = {std::move(copy), bytes, std::nullopt};
}

void Door::add_region(RegionId id, gpu::Shared shared) {
  const uint64_t bytes = shared.bytes;
  const std::lock_guard lock(mutex_);
  regions_[id] = {Fd(), bytes, std::move(shared)};
}

void Door::remove_region(RegionId id) {
  const std::lock_guard lock(mutex_);
  regions_.erase(id);
}

bool Door::fenced(const Generation& generation) {
  const std::lock_guard lock(mutex_);
  // Asked here and not left to the thread, so that the answer is never older than the question.
  const bool over = std::all_of(writers_.begin(), writers_.end(), [&](auto& entry) {
    return entry.second.generation != generation || is_over(entry.second);
  });
  // A writer whose every connection has ended may come back: what it writes then is a new
  // agreement. One that was never here may still be on its way with an old one.
  if (over && admitted_.contains(generation)) {
    barred_.erase(generation);
  } else {
    barred_.insert(generation);
  }
  return over;
}

bool Door::is_over(Writer& writer) {
  if (!writer.socket) return true;
  const bool exited = has_exited(writer.process.pidfd.get());
  const bool hung_up = has_ended(writer.socket.get());
  if (!exited && !hung_up) return false;
  // What it said before its end counts, also when the thread has not read it yet.
  if (!writer.hung_up) take_requests(writer);
  if (!writer.socket) return true;
  return !writer.gpu || (exited && hung_up);
}

void Door::run() {
  std::array<epoll_event, 32> ready;
  for (;;) {
    const std::chrono::milliseconds longest = paused_ ? kAcceptPause : std::chrono::seconds(1);
    const int count =
        epoll_wait(events_.get(), ready.data(), ready.size(), static_cast<int>(longest.count()));
    const std::lock_guard lock(mutex_);
    if (paused_ && Clock::now() >= accept_again_) pause_accepting(false);
    for (int i = 0; i < count; i++) {
      const uint64_t mark = ready[i].data.u64;
      if (mark == kStop) return;
      if (mark == kListener) {
        accept_one();
        continue;
      }
      const auto found = writers_.find(mark / 2);
      if (found == writers_.end()) continue;
      Writer& writer = found->second;
      if (mark % 2 == 1) {
        on_exited(mark / 2, writer);
      } else {
        const bool hung_up = (ready[i].events & (EPOLLHUP | EPOLLRDHUP | EPOLLERR)) != 0;
        // What it said last comes with its end.
        const bool goes_on = take_requests(writer);
        if (writer.socket && (hung_up || !goes_on)) on_hung_up(mark / 2, writer);
      }
    }
    const auto now = Clock::now();
    std::vector<uint64_t> over;
    for (const auto& [number, writer] : writers_) {
      if ((writer.generation.empty() || !writer.socket) && now >= writer.deadline) {
        over.push_back(number);
      }
    }
    for (const uint64_t number : over) drop(number);
  }
}

void Door::accept_one() {
  Fd socket(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!socket) {
    // Out of descriptors: the connection stays in the queue, and this must not become a busy loop.
    if (errno == EMFILE || errno == ENFILE) pause_accepting(true);
    return;
  }
  const auto strangers = std::count_if(writers_.begin(), writers_.end(), [](const auto& entry) {
    return entry.second.generation.empty();
  });
  if (static_cast<size_t>(strangers) >= kMaxStrangers) return;
  Writer writer;
  writer.process = peer_of(socket.get());
  writer.deadline = Clock::now() + kHelloTime;
  if (writer.process.user != geteuid() || !writer.process.pidfd ||
      getrandom(writer.nonce.data(), writer.nonce.size(), 0) !=
          static_cast<ssize_t>(writer.nonce.size())) {
    return;  // closes: another user learns nothing
  }
  Challenge challenge;
  challenge.nonce = writer.nonce;
  if (!send_message(socket.get(), &challenge, sizeof challenge)) return;
  const uint64_t number = next_writer_++;
  watch(events_.get(), socket.get(), EPOLLIN | EPOLLRDHUP, 2 * number);
  watch(events_.get(), writer.process.pidfd.get(), EPOLLIN, 2 * number + 1);
  writer.socket = std::move(socket);
  writers_[number] = std::move(writer);
}

// A listener that is not watched wakes nobody; who has a connection is served meanwhile.
void Door::pause_accepting(bool paused) {
  paused_ = paused;
  accept_again_ = Clock::now() + kAcceptPause;
  epoll_event event{};
  event.events = paused ? 0U : static_cast<uint32_t>(EPOLLIN);
  event.data.u64 = kListener;
  epoll_ctl(events_.get(), EPOLL_CTL_MOD, listener_.get(), &event);
}

bool Door::take_requests(Writer& writer) {
  for (;;) {
    Request request;
    const int received = receive_message(writer.socket.get(), &request, sizeof request);
    if (received == 0) return true;
    if (received < 0 || request.magic != kMagic || !take(writer, request)) return false;
    if (!writer.socket) return true;
  }
}

bool Door::take(Writer& writer, const Request& request) {
  if (writer.generation.empty()) return request.kind == Request::kHello && let_in(writer, request);
  switch (request.kind) {
    case Request::kRegion:
      return hand_over(writer, request.region);
    case Request::kGpu:
      writer.gpu = true;
      return true;
    case Request::kRelease:
      let_go(writer);
      return true;
    default:
      return false;
  }
}

bool Door::let_in(Writer& writer, const Request& hello) {
  if (hello.nonce != writer.nonce) return false;
  Reply reply;
  const std::string reason = refusal(writer, hello);
  if (reason.empty()) {
    reply.accepted = 1;
    // Before anything is handed over: from here on the writer counts as able to write.
    writer.generation.assign(hello.writer.data(), hello.writer.size());
    admitted_.insert(writer.generation);
  } else {
    std::strncpy(reply.reason.data(), reason.c_str(), reply.reason.size() - 1);
  }
  return send_message(writer.socket.get(), &reply, sizeof reply) && reply.accepted != 0;
}

bool Door::hand_over(Writer& writer, RegionId id) {
  Reply reply;
  std::vector<int> files;
  const auto found = regions_.find(id);
  if (found == regions_.end()) {
    const std::string reason = "region " + std::to_string(id) + " is not registered any more";
    std::strncpy(reply.reason.data(), reason.c_str(), reply.reason.size() - 1);
    return send_message(writer.socket.get(), &reply, sizeof reply) && false;
  }
  const Region& region = found->second;
  reply.accepted = 1;
  reply.bytes = region.bytes;
  if (region.shared) {
    writer.gpu = true;
    const Bytes shared = gpu::encode(*region.shared);
    reply.shared_length = static_cast<uint32_t>(shared.size());
    std::copy(shared.begin(), shared.end(), reply.shared.begin());
    if (region.shared->files() > 0) {
      for (const gpu::SharedPart& part : region.shared->parts) files.push_back(part.file.get());
    }
  } else {
    files.push_back(region.file.get());
  }
  return send_message(writer.socket.get(), &reply, sizeof reply, files);
}

std::string Door::refusal(const Writer& writer, const Request& hello) const {
  const Generation own(hello.owner.data(), hello.owner.size());
  const Generation other(hello.writer.data(), hello.writer.size());
  if (has_exited(writer.process.pidfd.get())) return "the writer has exited";
  if (own != generation_) return "the engine of generation " + own + " is closed";
  if (barred_.contains(other)) return "this writer's generation was fenced off";
  return "";
}

void Door::on_hung_up(uint64_t number, Writer& writer) {
  if (writer.generation.empty()) return drop(number);
  if (!writer.gpu) return let_go(writer);
  if (writer.exited) return drop(number);
  // Only its process' end tells that its GPU does not write any more.
  writer.hung_up = true;
  epoll_ctl(events_.get(), EPOLL_CTL_DEL, writer.socket.get(), nullptr);
}

void Door::on_exited(uint64_t number, Writer& writer) {
  if (!writer.generation.empty()) exited_(writer.generation, writer.process.id);
  // What it said before its end may not have been read.
  if (writer.socket && !writer.hung_up) take_requests(writer);
  if (!writer.socket || !writer.gpu || writer.hung_up) return drop(number);
  // A child that it forked may hold its CUDA context.
  writer.exited = true;
  epoll_ctl(events_.get(), EPOLL_CTL_DEL, writer.process.pidfd.get(), nullptr);
}

void Door::let_go(Writer& writer) {
  epoll_ctl(events_.get(), EPOLL_CTL_DEL, writer.socket.get(), nullptr);
  writer.socket = Fd();
  writer.deadline = Clock::now() + kExitTime;
}

void Door::drop(uint64_t number) {
  const auto found = writers_.find(number);
  if (found == writers_.end()) return;
  Writer& writer = found->second;
  if (writer.socket) epoll_ctl(events_.get(), EPOLL_CTL_DEL, writer.socket.get(), nullptr);
  epoll_ctl(events_.get(), EPOLL_CTL_DEL, writer.process.pidfd.get(), nullptr);
  writers_.erase(found);
}

}  // namespace kvx::shm
