// Copies by a kernel of one GPU: one launch per batch, whose addresses the kernel computes.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "kvx/driver.h"
#include "kvx/gpu/batch.h"
#include "kvx/gpu/context.h"
#include "kvx/gpu/kernels.h"
#include "kvx/gpu/launch.h"
#include "kvx/gpu/stream.h"

namespace kvx::gpu {

// What has to have happened before the first byte is read: handles of the host's own CUDA, in the
// same process and on the same GPU.
struct After {
  EventHandle event = nullptr;    // an event that was recorded
  StreamHandle stream = nullptr;  // everything that was put on this stream so far
};

// Multiprocessors that copy at once, by path, for all links together: what the model on the same
// GPU goes without. docs/engines/cuda.md has the measurements that the defaults come from.
struct CopySms {
  std::array<unsigned, kPaths> of = {8, 16, 1, 2};  // in the order of Path
};

namespace detail {

inline constexpr const char* kCannotCopy = "ERR_KVX_TRANSFER_FAILED";

// The launches of one path, in order, on one stream. Not thread-safe.
class Queue {
 public:
  Queue(Context& context, unsigned blocks)
      : context_(context),
        blocks_(blocks),
        stream_(context, kUnavailable),
        ring_(context, kRingBytes, kUnavailable) {}

  // Whether the tables of a launch have room now.
  bool has_room(size_t bytes) const { return start_of(bytes) + bytes <= freed_ + kRingBytes; }

  void wait_for(const After& after) {
    const Api& api = context_.api();
    if (after.event != nullptr) {
      context_.check(api.stream_wait(stream_.get(), after.event, 0), "cuStreamWaitEvent",
                     kCannotCopy);
    }
    if (after.stream != nullptr) {
      // The wait is for what the event has recorded by now: it can be used again at once.
      const Event event = take_event();
      context_.check(api.event_record(event.get(), after.stream), "cuEventRecord", kCannotCopy);
      context_.check(api.stream_wait(stream_.get(), event.get(), 0), "cuStreamWaitEvent",
                     kCannotCopy);
    }
  }

  // Needs room. Answers the number of the launch, which counts from 1. Throws DriverError.
  uint64_t launch(const Kernels& kernels, const Launch& launch) {
    const uint64_t start = start_of(launch.table_bytes);
    const uint64_t at = start % kRingBytes;
    LaunchOnGpu parameter = write_launch(launch, ring_.data() + at, ring_.address() + at);
    constexpr unsigned kThreads = 1024, kUnitsPerBlock = kThreads / 32;
    const unsigned useful = (parameter.units + kUnitsPerBlock - 1) / kUnitsPerBlock;
    Event event = take_event();
    void* parameters[] = {&parameter};
    context_.check(context_.api().launch(kernels.copy(launch.word), std::min(blocks_, useful), 1, 1,
                                         kThreads, 1, 1, 0, stream_.get(), parameters, nullptr),
                   "cuLaunchKernel", kCannotCopy);
    used_ = start + launch.table_bytes;
    const Result result = context_.api().event_record(event.get(), stream_.get());
    if (result == kOk) {
      running_.push_back({std::move(event), used_});
    } else {
      // The copy runs, and nothing will tell when it has ended.
      context_.fail("cuEventRecord", result);
    }
    return ++launched_;
  }

  // Sees what has ended. Answers the context's error, or kOk.
  Result advance() {
    while (!running_.empty()) {
      const Result result = context_.api().event_query(running_.front().event.get());
      if (result == kNotReady) return kOk;
      if (result != kOk) return result;
      freed_ = running_.front().ring_end;
      events_.push_back(std::move(running_.front().event));
      running_.pop_front();
      ended_++;
    }
    return kOk;
  }
  uint64_t ended() const { return ended_; }
  bool idle() const { return running_.empty(); }

 private:
  static constexpr const char* kUnavailable = "ERR_KVX_BACKEND_UNAVAILABLE";
  static constexpr uint64_t kRingBytes = 2 * kMostTableBytes;

  struct Running {
    Event event;
    uint64_t ring_end;
  };

  // Tables lie in one piece: one that would reach over the end begins anew. Positions only grow.
  uint64_t start_of(size_t bytes) const {
    const uint64_t start = (used_ + 15) / 16 * 16;
    const uint64_t rest = kRingBytes - start % kRingBytes;
    return rest < bytes ? start + rest : start;
  }

  Event take_event() {
    if (events_.empty()) return Event(context_, kCannotCopy);
    Event event = std::move(events_.back());
    events_.pop_back();
    return event;
  }

  Context& context_;
  const unsigned blocks_;
  Stream stream_;
  PinnedBuffer ring_;
  uint64_t used_ = 0, freed_ = 0;
  uint64_t launched_ = 0, ended_ = 0;
  std::deque<Running> running_;
  std::vector<Event> events_;
};

}  // namespace detail

// Transfers of one path run in the order of their submits, one launch after another, so that all
// links together use the budget once. One that waits for `after` holds up those behind it: the
// host's chunks become ready in the order in which it submits them.
class Copier {
 public:
  using Ticket = uint64_t;

  // Loads the kernels: 0.1 s the first time on a machine. Throws
  // DriverError("ERR_KVX_BACKEND_UNAVAILABLE").
  Copier(std::shared_ptr<Context> context, CopySms sms)
      : context_(std::move(context)), kernels_(std::make_unique<Kernels>(context_)) {
    const Context::Current current(*context_);
    for (size_t path = 0; path < kPaths; path++) {
      queues_[path] = std::make_unique<detail::Queue>(*context_, sms.of[path]);
    }
  }
  // Call stop() first: what still runs then is left alone, and so is what it uses.
  ~Copier() {
    if (!stop(std::chrono::milliseconds(0))) {
      for (auto& queue : queues_) static_cast<void>(queue.release());
      static_cast<void>(kernels_.release());
      return;
    }
    const Context::Current current(*context_);
    for (auto& queue : queues_) queue.reset();
  }
  Copier(const Copier&) = delete;
  Copier& operator=(const Copier&) = delete;

  // Launches; the batch is only read during the call. Any thread. Blocks while the room for
  // plans that have not yet run is used up, until there is some or `cancelled` is true. Throws
  // DriverError("ERR_KVX_TRANSFER_FAILED") when nothing of it was launched.
  Ticket submit(const Batch& batch, const After& after, const std::atomic<bool>& cancelled) {
    const std::vector<detail::Launch> launches = detail::launches_of(batch);
    submitting_++;
    std::unique_lock lock(mutex_);
    submitting_--;
    if (const std::string broken = context_->broken(); !broken.empty()) {
      throw DriverError(detail::kCannotCopy, broken);
    }
    const Context::Current current(*context_);
    Transfer transfer;
    try {
      std::array<bool, kPaths> ordered{};
      for (const detail::Launch& launch : launches) {
        const auto path = static_cast<size_t>(launch.path);
        detail::Queue& queue = *queues_[path];
        wait_for_room(lock, queue, launch.table_bytes, cancelled);
        // Others may have launched in between, but on a stream a wait holds for all that follows.
        if (!std::exchange(ordered[path], true)) queue.wait_for(after);
        transfer.last[path] = queue.launch(*kernels_, launch);
      }
    } catch (const DriverError& error) {
      if (transfer.last == Transfer{}.last) throw;
      transfer.failure = error.code() + ": " + error.what();
    }
    transfers_[++last_] = std::move(transfer);
    return last_;
  }

  // `reason` says why it is kFailed or kFailedSettled. After an error that CUDA cannot recover from
  // it stays kFailed. Any thread. While another thread submits nothing is looked up: one that polls
  // without a pause would hold it up.
  State poll(Ticket ticket, std::string& reason) {
    if (submitting_ > 0) return State::kPending;
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock) return State::kPending;
    advance();
    const Transfer& transfer = transfers_.at(ticket);
    for (size_t path = 0; path < kPaths; path++) {
      if (transfer.last[path] <= queues_[path]->ended()) continue;
      reason = transfer.failure.empty() ? context_->broken() : transfer.failure;
      return reason.empty() ? State::kPending : State::kFailed;
    }
    reason = transfer.failure;
    return reason.empty() ? State::kDone : State::kFailedSettled;
  }

  // Forgets a ticket, after kDone or kFailedSettled.
  void release(Ticket ticket) {
    const std::lock_guard lock(mutex_);
    transfers_.erase(ticket);
  }

  // Waits until nothing of this runs any more, and at most so long. False: it still runs, or the
  // context is broken. Then memory that is copied to or from must stay mapped.
  bool stop(std::chrono::milliseconds longest) {
    const auto deadline = Clock::now() + longest;
    for (;;) {
      {
        const std::lock_guard lock(mutex_);
        advance();
        if (!context_->broken().empty()) return false;
        if (std::all_of(queues_.begin(), queues_.end(), [](auto& each) { return each->idle(); })) {
          return true;
        }
      }
      if (Clock::now() >= deadline) return false;
      std::this_thread::sleep_for(kPause);
    }
  }

 private:
  static constexpr std::chrono::microseconds kPause{20};

  struct Transfer {
    std::array<uint64_t, kPaths> last{};  // launch by path; 0: none
    std::string failure;
  };

  // Under the lock, like the next; the lock is open while it sleeps.
  void wait_for_room(std::unique_lock<std::mutex>& lock, detail::Queue& queue, size_t bytes,
                     const std::atomic<bool>& cancelled) {
    while (!queue.has_room(bytes)) {
      advance();
      if (const std::string broken = context_->broken(); !broken.empty()) {
        throw DriverError(detail::kCannotCopy, broken);
      }
      if (queue.has_room(bytes)) return;
      if (cancelled) {
        throw DriverError("ERR_KVX_ABORTED", "The transfer was cancelled before it was launched.");
      }
      lock.unlock();
      std::this_thread::sleep_for(kPause);
      lock.lock();
    }
  }

  void advance() {
    if (!context_->broken().empty()) return;
    const Context::Current current(*context_);
    for (auto& queue : queues_) {
      if (const Result result = queue->advance(); result != kOk) {
        // Whatever it is, nothing is known any more of what runs.
        context_->fail("a copy", result);
        return;
      }
    }
  }

  const std::shared_ptr<Context> context_;
  std::unique_ptr<Kernels> kernels_;
  std::atomic<int> submitting_{0};  // threads that wait for the lock to submit
  std::mutex mutex_;                // guards what follows
  std::array<std::unique_ptr<detail::Queue>, kPaths> queues_;
  std::map<Ticket, Transfer> transfers_;
  Ticket last_ = 0;
};

}  // namespace kvx::gpu
