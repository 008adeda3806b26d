#include "watch.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <string>

#include "kvx/driver.h"
#include "kvx/thread.h"

namespace kvx::shm {

namespace {

constexpr uint64_t kStop = UINT64_MAX;

bool watch(int events, int fd, uint64_t mark) {
  epoll_event event{};
  event.events = EPOLLIN | EPOLLRDHUP;
  event.data.u64 = mark;
  return epoll_ctl(events, EPOLL_CTL_ADD, fd, &event) == 0;
}

[[noreturn]] void refuse() {
  throw DriverError("ERR_KVX_CONNECT_FAILED",
                    std::string("The connection cannot be watched: ") + std::strerror(errno) + ".");
}

}  // namespace

Watch::~Watch() {
  if (!thread_.joinable()) return;
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(stop_.get(), &one, sizeof one);
  thread_.join();
}

void Watch::add(uint32_t key, int socket) {
  const std::lock_guard lock(mutex_);
  if (!thread_.joinable()) {
    stop_ = Fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    events_ = Fd(epoll_create1(EPOLL_CLOEXEC));
    if (!stop_ || !events_ || !watch(events_.get(), stop_.get(), kStop)) refuse();
    thread_ = start_thread("kvx-shm-watch", [this] { run(); });
  }
  if (!watch(events_.get(), socket, key)) refuse();
  sockets_[key] = socket;
}

void Watch::remove(uint32_t key) {
  const std::lock_guard lock(mutex_);
  const auto found = sockets_.find(key);
  if (found == sockets_.end()) return;
  epoll_ctl(events_.get(), EPOLL_CTL_DEL, found->second, nullptr);
  sockets_.erase(found);
}

void Watch::run() {
  std::array<epoll_event, 32> ready;
  const int events = [this] {
    const std::lock_guard lock(mutex_);  // until add() has returned
    return events_.get();
  }();
  for (;;) {
    const int count = epoll_wait(events, ready.data(), ready.size(), -1);
    for (int i = 0; i < count; i++) {
      if (ready[i].data.u64 == kStop) return;
      const auto key = static_cast<uint32_t>(ready[i].data.u64);
      {
        const std::lock_guard lock(mutex_);
        const auto found = sockets_.find(key);
        if (found == sockets_.end()) continue;
        epoll_ctl(events_.get(), EPOLL_CTL_DEL, found->second, nullptr);
        sockets_.erase(found);
      }
      ended_(key);
    }
  }
}

}  // namespace kvx::shm
