// Threads that post the parts of one transfer side by side.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "kvx/thread.h"

namespace kvx::mori {

class Posters {
 public:
  // `threads` counts the caller of run().
  explicit Posters(size_t threads) {
    try {
      for (size_t i = 1; i < threads; i++) {
        threads_.push_back(start_thread("kvx-mori-post", [this] { work(); }));
      }
    } catch (const NoThread&) {
      end();
      throw;
    }
  }
  ~Posters() { end(); }

  // Calls body(0) … body(count - 1), each once, and returns when all have returned. The body must
  // not throw.
  void run(size_t count, const std::function<void(size_t)>& body) {
    if (threads_.empty() || count < 2) {
      for (size_t i = 0; i < count; i++) body(i);
      return;
    }
    Job job{&body, count};
    {
      const std::lock_guard lock(mutex_);
      jobs_.push_back(&job);
    }
    wake_.notify_all();
    std::unique_lock lock(mutex_);
    take(lock, job);
    job.done.wait(lock, [&] { return job.running == 0; });
  }

 private:
  struct Job {
    const std::function<void(size_t)>* body;
    size_t count;
    size_t next = 0, running = 0;
    std::condition_variable done{};
  };

  void end() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    for (auto& thread : threads_) thread.join();
  }

  // Works on one job until none of it is left to begin. Several threads may be in here for the same
  // job.
  void take(std::unique_lock<std::mutex>& lock, Job& job) {
    job.running++;
    while (job.next < job.count) {
      const size_t i = job.next++;
      if (job.next == job.count) std::erase(jobs_, &job);
      lock.unlock();
      (*job.body)(i);
      lock.lock();
    }
    if (--job.running == 0) job.done.notify_all();
  }

  void work() {
    std::unique_lock lock(mutex_);
    for (;;) {
      wake_.wait(lock, [this] { return stop_ || !jobs_.empty(); });
      if (stop_) return;
      take(lock, *jobs_.front());
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Job*> jobs_;
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace kvx::mori
