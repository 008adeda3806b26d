// What the threads of one engine share: the lock, the driver, the events for the caller, and what
// wakes the poll thread and the control thread.
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

// What the poll thread sleeps on. A notification is not lost when the thread is awake.
class Wakeup {
 public:
  void notify() {
    notified_ = true;
    condition_.notify_one();
  }
  // Notifies a sleeper that would sleep beyond `time`. One that is awake looks at all deadlines
  // before it sleeps again.
  void notify_if_asleep_at(Clock::time_point time) {
    if (time < sleeps_until_) notify();
  }
  bool notified() const { return notified_; }
  // Whether there was a notification since the last take().
  bool take() { return std::exchange(notified_, false); }

  // Until the next notification or until that time, whichever is earlier; max() is never.
  void sleep(Lock& lock, Clock::time_point until) {
    sleeps_until_ = until;
    if (until == Clock::time_point::max()) {
      condition_.wait(lock);
    } else {
      condition_.wait_until(lock, until);
    }
    sleeps_until_ = Clock::time_point::min();  // awake
  }

 private:
  bool notified_ = false;
  Clock::time_point sleeps_until_ = Clock::time_point::min();
  std::condition_variable condition_;
};

struct Shared {
  explicit Shared(std::function<void()> notify) : outbox(std::move(notify)) {}

  std::mutex mutex;
  Outbox outbox;
  Wakeup poll_wakeup;
  std::condition_variable control_wake;  // for the control thread, which watches over the others
  // What the driver thread stores when open succeeds; `driver` is null before.
  std::unique_ptr<Driver> driver;
  Capabilities capabilities;
  Bytes address;
  bool closing = false;
};

// A thread that calls the driver, and may never come back from a call.
struct CallingThread {
  std::thread thread;
  bool running = false;
  Call call{nullptr};

  // Joins the thread when it has ended or is about to, and detaches it when it is stuck in a call.
  void finish(Lock& lock) {
    if (!thread.joinable()) return;
    if (running) return thread.detach();
    lock.unlock();
    thread.join();
    lock.lock();
  }
};

}  // namespace kvx::engine
