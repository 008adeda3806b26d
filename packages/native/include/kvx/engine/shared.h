// What the threads of one engine share: the lock, the driver behind it, and who is told of what.
//
// The lock guards everything in engine/ that does not say otherwise. It is never held while the
// driver is called: a driver may call wake() under a lock of its own.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

#include "kvx/driver.h"
#include "kvx/engine/failure.h"
#include "kvx/engine/outbox.h"

namespace kvx::engine {

using Lock = std::unique_lock<std::mutex>;

// The clock that wakes the poll thread.
class Bell {
 public:
  void ring() {
    rung_ = true;
    wake_.notify_one();
  }
  // Rings when the poll thread would sleep longer.
  void ring_if_asleep_at(Clock::time_point time) {
    if (time < sleeps_until_) ring();
  }
  bool rung() const { return rung_; }
  // Whether it has rung since the last time.
  bool take() { return std::exchange(rung_, false); }

  // Until it rings, or that time has come; max() is never.
  void sleep(Lock& lock, Clock::time_point until) {
    sleeps_until_ = until;
    if (until == Clock::time_point::max()) {
      wake_.wait(lock);
    } else {
      wake_.wait_until(lock, until);
    }
    sleeps_until_ = Clock::time_point::min();  // awake
  }

 private:
  bool rung_ = false;
  Clock::time_point sleeps_until_ = Clock::time_point::min();
  std::condition_variable wake_;
};

struct Shared {
  explicit Shared(std::function<void()> notify) : outbox(std::move(notify)) {}

  std::mutex mutex;
  Outbox outbox;
  Bell bell;
  std::condition_variable control_wake;  // for the control thread, which watches over the others
  std::unique_ptr<Driver> driver;        // null until open has succeeded
  Capabilities capabilities;             // known like the next once open has succeeded
  Bytes address;
  bool closing = false;
};

// A thread that calls the driver, and may be stuck in it.
struct Worker {
  std::thread thread;
  bool running = false;
  Call call{nullptr};

  // Joins a thread that has ended, or is about to; leaves one that is stuck to itself.
  void finish(Lock& lock) {
    if (!thread.joinable()) return;
    if (running) return thread.detach();
    lock.unlock();
    thread.join();
    lock.lock();
  }
};

}  // namespace kvx::engine
