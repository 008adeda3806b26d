// Tells once when the other end of a connection has gone. The writer's side: the owner of memory
// has nothing to say on the connection, so that nobody else reads it.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <thread>

#include "kvx/fd.h"

namespace kvx::shm {

class Watch {
 public:
  // `ended` is called on the watch's thread, without a lock.
  explicit Watch(std::function<void(uint32_t key)> ended) : ended_(std::move(ended)) {}
  ~Watch();
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

  // The socket stays open until remove() has returned. Throws NoThread, and DriverError when the
  // process has no descriptor left.
  void add(uint32_t key, int socket);
  // Does nothing for one that is not there.
  void remove(uint32_t key);

 private:
  void run();

  const std::function<void(uint32_t)> ended_;
  std::mutex mutex_;  // guards what follows
  Fd stop_, events_;
  std::map<uint32_t, int> sockets_;
  std::thread thread_;  // started by the first add
};

}  // namespace kvx::shm
