// A transfer engine between processes of one Linux host. Memory from allocate() is a memory file:
// the writer opens the owner's and writes into it. A socket between the two says who may, and who
// is still there. Plans, bounds, deadlines and the JavaScript side are the work of kvx/addon.h.
#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <mutex>
#include <set>

#include "kvx/addon.h"
#include "kvx/fd.h"
#include "kvx/thread.h"

namespace {

using kvx::DriverError;
using kvx::Fd;

// How a peer finds a memory file: as /proc/PID/fd/FD, where another file may be meanwhile.
struct Descriptor {
  int pid, fd;
  ino_t inode;
};

[[noreturn]] void refuse(const std::string& why) {
  throw DriverError("ERR_KVX_CONNECT_FAILED", "The backend 'files-cpp': " + why + ".");
}

// Where the engine of a generation listens: a name that goes when its socket does.
std::pair<sockaddr_un, socklen_t> name_of(const kvx::Generation& generation) {
  const std::string text = std::string(1, '\0') + "kvx-files-" + generation;
  sockaddr_un name{AF_UNIX, {}};
  text.copy(name.sun_path, text.size());
  return {name, static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + text.size())};
}

Fd new_socket() { return Fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)); }
void send_text(const Fd& to, const std::string& text) {
  send(to.get(), text.data(), text.size(), MSG_NOSIGNAL);
}
bool is_ready(const Fd& socket, short what, int milliseconds) {
  pollfd one{socket.get(), what, 0};
  return poll(&one, 1, milliseconds) == 1;
}

// To an owner. Says goodbye before it closes its socket, unless the process is gone.
struct Link {
  ~Link() { end(); }
  // Nothing more is written.
  void end() {
    const std::lock_guard lock(mutex);
    send_text(socket, "goodbye");
    socket.reset();
  }

  kvx::Generation owner;
  std::mutex mutex;
  Fd socket;
  std::vector<Fd> files;
};

// The other end of a link.
struct Writer {
  Fd socket;
  kvx::Generation generation;
  bool goodbye = false;
};

class Files : public kvx::Driver {
 public:
  explicit Files(const kvx::DriverContext& context) : context_(context) {
    capabilities_.memory_kinds = {"cpu"};
    capabilities_.fence = "peer";
    capabilities_.max_segment_bytes = 1 << 20;  // a cancelled transfer ends between two of them
    capabilities_.version = "1";
    const auto [name, length] = name_of(context.generation);
    if (bind(door_.get(), reinterpret_cast<const sockaddr*>(&name), length) != 0 ||
        listen(door_.get(), 128) != 0) {
      throw DriverError("ERR_KVX_BACKEND_UNAVAILABLE",
                        std::string("No socket could be opened: ") + std::strerror(errno) + ".");
    }
    watch(door_, kDoor);
    watcher_ = kvx::start_thread("kvx-files", [this] { watch_all(); });
  }
  ~Files() override {
    shutdown(door_.get(), SHUT_RDWR);  // ends the thread
    watcher_.join();
  }

  const kvx::Capabilities& capabilities() const override { return capabilities_; }
  kvx::Bytes address() const override {
    return {context_.generation.begin(), context_.generation.end()};
  }

  void register_memory(kvx::RegionId id, const kvx::Memory& memory, kvx::Bytes& bytes) override {
    struct stat status{};
    Fd file(memory.fd < 0 ? -1 : fcntl(memory.fd, F_DUPFD_CLOEXEC, 0));
    if (!file || fstat(file.get(), &status) != 0) {
      throw DriverError("ERR_KVX_MEMORY",
                        "The backend 'files-cpp' takes memory from allocate() of @kvx/native only.");
    }
    const Descriptor descriptor{getpid(), file.get(), status.st_ino};
    bytes.resize(sizeof descriptor);
    std::memcpy(bytes.data(), &descriptor, sizeof descriptor);
    const std::lock_guard lock(mutex_);
    regions_[id] = {std::move(file), reinterpret_cast<const uint8_t*>(memory.address)};
  }
  void deregister_memory(kvx::RegionId id) override {
    const std::lock_guard lock(mutex_);
    regions_.erase(id);
  }

  kvx::PeerId connect(const kvx::PeerAddress& peer, kvx::Clock::time_point deadline,
                      const std::atomic<bool>& cancelled) override {
    if (!std::ranges::equal(peer.address, peer.generation)) refuse("that is no address of it");
    auto link = std::make_shared<Link>();
    link->owner = peer.generation;
    link->socket = new_socket();
    const auto [name, length] = name_of(peer.generation);
    if (::connect(link->socket.get(), reinterpret_cast<const sockaddr*>(&name), length) != 0) {
      refuse("generation " + peer.generation + " does not listen: " + std::strerror(errno));
    }
    send_text(link->socket, context_.generation);
    while (!is_ready(link->socket, POLLIN, 10)) {
      if (cancelled || kvx::Clock::now() > deadline) refuse("the owner does not answer");
    }
    char answer = 0;
    if (recv(link->socket.get(), &answer, 1, 0) != 1) refuse("the owner has barred this engine");
    for (const kvx::Bytes& region : peer.regions) link->files.push_back(file_of(region));
    const std::lock_guard lock(mutex_);
    watch(link->socket, ++last_socket_);
    links_[last_socket_] = link;
    return last_socket_;
  }
  void disconnect(kvx::PeerId peer) override {
    const std::lock_guard lock(mutex_);
    links_.erase(peer);
  }

  // A writer that is told to stop closes its socket; the system does it for a process that is gone.
  bool fenced(const kvx::Generation& generation) override {
    const std::lock_guard lock(mutex_);
    barred_.insert(generation);
    bool gone = true;
    for (auto& [id, writer] : writers_) {
      if (writer.generation != generation) continue;
      shutdown(writer.socket.get(), SHUT_WR);
      gone = false;
    }
    return gone;
  }

  kvx::TransferId submit(kvx::PeerId peer, std::span<const kvx::Segment> segments,
                         const std::atomic<bool>& cancelled) override {
    std::shared_ptr<Link> link;
    std::vector<const uint8_t*> sources;
    {
      const std::lock_guard lock(mutex_);
      link = links_.at(peer);
      for (const kvx::Segment& each : segments) {
        sources.push_back(regions_.at(each.source_region).bytes + each.source_offset);
      }
    }
    std::string failure;
    for (size_t i = 0; i < segments.size() && failure.empty(); i++) {
      // What was written is there: nothing more can land.
      if (cancelled) throw kvx::DriverError("ERR_KVX_ABORTED", "The transfer was cancelled.");
      failure = write(*link, segments[i], sources[i]);
    }
    const std::lock_guard lock(mutex_);
    outcomes_[++last_transfer_] = failure;
    return last_transfer_;
  }
  kvx::State poll(kvx::TransferId transfer, std::string& reason) override {
    const std::lock_guard lock(mutex_);
    reason = outcomes_.at(transfer);
    return reason.empty() ? kvx::State::kDone : kvx::State::kFailedSettled;
  }
  void release(kvx::TransferId transfer) override {
    const std::lock_guard lock(mutex_);
    outcomes_.erase(transfer);
  }

 private:
  struct Region {
    Fd file;
    const uint8_t* bytes;
  };
  static constexpr uint32_t kDoor = 0;

  static Fd file_of(const kvx::Bytes& region) {
    Descriptor it{};
    if (region.size() != sizeof it) refuse("that is no descriptor of a region");
    std::memcpy(&it, region.data(), sizeof it);
    const std::string path = "/proc/" + std::to_string(it.pid) + "/fd/" + std::to_string(it.fd);
    Fd file(open(path.c_str(), O_RDWR | O_CLOEXEC));
    struct stat status{};
    if (!file || fstat(file.get(), &status) != 0 || status.st_ino != it.inode) {
      refuse("a region is not registered there any more");
    }
    return file;
  }

  // Why it was not written; empty when it was.
  static std::string write(Link& link, const kvx::Segment& segment, const uint8_t* source) {
    const std::lock_guard lock(link.mutex);
    if (!link.socket || is_ready(link.socket, POLLRDHUP, 0)) {
      return "ERR_KVX_PEER_LOST: The owner has ended, or does not want this engine any more.";
    }
    const int file = link.files[segment.destination_region].get();
    for (uint64_t at = 0; at < segment.bytes;) {
      const auto to = static_cast<off_t>(segment.destination_offset + at);
      const ssize_t written = pwrite(file, source + at, segment.bytes - at, to);
      if (written <= 0) return std::string("A write has failed: ") + std::strerror(errno) + ".";
      at += static_cast<uint64_t>(written);
    }
    return "";
  }

  void watch(const Fd& socket, uint32_t id) {
    epoll_event event{EPOLLIN | EPOLLRDHUP, {.u32 = id}};
    epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, socket.get(), &event);
  }

  void watch_all() {
    for (;;) {
      epoll_event event{};
      if (epoll_wait(epoll_.get(), &event, 1, -1) != 1) continue;
      const bool hung_up = (event.events & EPOLLHUP) != 0;
      const auto id = event.data.u32;
      if (id == kDoor && hung_up) return;
      const std::lock_guard lock(mutex_);
      if (id == kDoor) {
        Writer writer{Fd(accept4(door_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK)), ""};
        if (!writer.socket) continue;
        watch(writer.socket, ++last_socket_);
        writers_[last_socket_] = std::move(writer);
      } else if (const auto writer = writers_.find(id); writer != writers_.end()) {
        if (!hear(writer->second)) writers_.erase(writer);
      } else if (const auto link = links_.find(id); link != links_.end()) {
        if (hung_up) context_.peer_gone(link->second->owner, "it has closed its socket");
        link->second->end();
      }
    }
  }

  // False when the writer has stopped.
  bool hear(Writer& writer) {
    char text[64];
    const ssize_t length = recv(writer.socket.get(), text, sizeof text, 0);
    if (length < 0 && errno == EAGAIN) return true;
    if (length <= 0) {
      const bool died = !writer.generation.empty() && !writer.goodbye;
      if (died) context_.peer_gone(writer.generation, "its process is gone");
      return false;
    }
    if (!writer.generation.empty()) return writer.goodbye = true;
    writer.generation.assign(text, static_cast<size_t>(length));
    writer.goodbye = barred_.contains(writer.generation);
    if (!writer.goodbye) send_text(writer.socket, "y");
    return !writer.goodbye;
  }

  const kvx::DriverContext context_;
  kvx::Capabilities capabilities_;
  Fd door_ = new_socket(), epoll_ = Fd(epoll_create1(EPOLL_CLOEXEC));
  std::thread watcher_;
  std::mutex mutex_;  // of what follows; never taken by who holds the mutex of a link
  uint32_t last_socket_ = kDoor;
  kvx::TransferId last_transfer_ = 0;
  std::map<kvx::RegionId, Region> regions_;
  std::map<kvx::PeerId, std::shared_ptr<Link>> links_;
  std::map<uint32_t, Writer> writers_;
  std::map<kvx::TransferId, std::string> outcomes_;
  std::set<kvx::Generation> barred_;
};

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  kvx::register_engine(env, exports, [](const kvx::Options&, const kvx::DriverContext& context) {
    return std::make_unique<Files>(context);
  });
  return exports;
}

}  // namespace

NODE_API_MODULE(engine_cpp, Init)
