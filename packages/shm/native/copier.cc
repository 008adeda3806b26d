#include "copier.h"

#include <utility>

#include "copy.h"
#include "kvx/thread.h"

namespace kvx::shm {

namespace {

// Large enough that the lock does not count, small enough that threads share a job and end
// promptly.
constexpr uint64_t kSliceBytes = 512 * 1024;

}  // namespace

Copier::Copier(size_t threads) {
  try {
    for (size_t i = 0; i < threads; i++) {
      threads_.push_back(start_thread("kvx-shm-copy", [this] { run(); }));
    }
  } catch (const NoThread&) {
    end();
    throw;
  }
}

Copier::~Copier() {
  end();
}

void Copier::end() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  work_.notify_all();
  for (auto& thread : threads_) thread.join();
}

void Copier::add(std::shared_ptr<Job> job) {
  job->remaining = job->pieces.size();
  {
    const std::lock_guard lock(mutex_);
    jobs_.push_back(std::move(job));
  }
  work_.notify_all();
}

void Copier::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    work_.wait(lock, [this] { return stopping_ || !jobs_.empty(); });
    if (stopping_) return;
    const auto job = jobs_.front();
    const size_t begin = job->next;
    uint64_t bytes = 0;
    while (job->next < job->pieces.size() && bytes < kSliceBytes) {
      bytes += job->pieces[job->next++].bytes;
    }
    const size_t end = job->next;
    if (end == job->pieces.size()) jobs_.pop_front();
    lock.unlock();
    for (size_t i = begin; i < end; i++) {
      const Piece& piece = job->pieces[i];
      copy(piece.destination, piece.source, piece.bytes);
    }
    finish_copies();
    if (job->remaining.fetch_sub(end - begin) == end - begin) job->copied();
    lock.lock();
  }
}

}  // namespace kvx::shm
