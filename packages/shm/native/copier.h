// A small pool of threads that copy. Jobs are taken in order, a slice at a time, so that all
// threads work on the oldest job.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace kvx::shm {

struct Piece {
  const uint8_t* source;
  uint8_t* destination;
  uint64_t bytes;
};

struct Job {
  std::vector<Piece> pieces;
  std::function<void()> copied;      // called once, by a copy thread, when every byte is in place
  size_t next = 0;                   // under the pool's lock
  std::atomic<size_t> remaining{0};  // pieces not yet copied
};

class Copier {
 public:
  explicit Copier(size_t threads);
  // Ends after the slices at hand: what was not begun is never copied.
  ~Copier();
  Copier(const Copier&) = delete;
  Copier& operator=(const Copier&) = delete;

  void add(std::shared_ptr<Job> job);

 private:
  void run();
  void end();

  std::mutex mutex_;
  std::condition_variable work_;
  std::deque<std::shared_ptr<Job>> jobs_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace kvx::shm
