// Copies by a kernel of one GPU: one launch per batch, whose addresses the kernel computes. Large
// pieces of the host's memory are written by a copy engine (pieces.h).
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "kvx/driver.h"
#include "kvx/gpu/batch.h"
#include "kvx/gpu/context.h"
#include "kvx/gpu/kernels.h"
#include "kvx/gpu/launch.h"
#include "kvx/gpu/pieces.h"
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
  std::array<unsigned, kPaths> of = {8, 16, 2, 4};  // in the order of Path
};

namespace detail {

inline constexpr const char* kCannotCopy = "ERR_KVX_TRANSFER_FAILED";

// Memory of the GPU that is filled by a kernel and emptied by a copy engine: two slabs in turn, so
// that one is filled while the other is emptied. They are filled on a stream of their own.
class Slabs {
 public:
  Slabs(Context& context, uint64_t bytes, const char* code)
      : filling(context, code), slabs_{{{context, bytes, code}, {context, bytes, code}}} {}

  struct Slab {
    Slab(Context& context, uint64_t bytes, const char* code)
        : memory(context, bytes, code), filled(context, code), emptied(context, code) {}
    Scratch memory;
    Event filled, emptied;
  };
  Slab& next() {
    next_ = 1 - next_;
    return slabs_[next_];
  }

  Stream filling;

 private:
  std::array<Slab, 2> slabs_;
  size_t next_ = 0;
};

// The copies of one path, in order, on one stream. Not thread-safe.
class Queue {
 public:
  Queue(Context& context, unsigned blocks)
      : context_(context),
        blocks_(blocks),
        stream_(context, kUnavailable),
        ring_(context, kRingBytes, kUnavailable) {}

  // Whether the tables of a launch have room now.
  bool has_room(size_t bytes) const { return start_of(bytes) + bytes <= freed_ + kRingBytes; }
  // Whether the driver has room for a launch as well, so that it does not wait: it takes some
  // hundreds.
  bool takes_at_once(size_t bytes) const {
    constexpr size_t kFew = 64;
    return running_.size() < kFew && has_room(bytes);
  }

  void wait_for(const After& after) {
    if (after.event != nullptr) wait_for(after.event);
    if (after.stream != nullptr) {
      // The wait is for what the event has recorded by now: it can be used again at once.
      const Event event = take_event();
      record(event, after.stream);
      wait_for(event.get());
    }
  }

  // Makes room for loads. False when the GPU has no memory to spare, and from then on.
  bool open_slabs() {
    try {
      if (!slabs_ && !refused_) {
        slabs_ = std::make_unique<Slabs>(context_, PieceLimits{}.slab, kUnavailable);
      }
    } catch (const DriverError&) {
      refused_ = true;
    }
    return slabs_ != nullptr;
  }

  // These throw DriverError. `last` is the number of the last step that was begun for a transfer;
  // numbers count from 1.

  // Needs room.
  void launch(const Kernels& kernels, const Launch& launch, uint64_t& last) {
    last = start(kernels, launch, stream_.get(), blocks_);
  }

  // By a copy engine.
  void copy(std::span<const Piece> pieces, uint64_t& last) {
    Event event = take_event();
    if (pieces.size() > 1 && context_.api().copy_batch_async != nullptr) {
      const Result result = copy_batch(pieces);
      // Some of a batch that failed may have begun.
      last = finish(std::move(event), stream_.get());
      context_.check(result, "cuMemcpyBatchAsync", kCannotCopy);
      return;
    }
    for (size_t begun = 0; begun < pieces.size(); begun++) {
      const auto& [source, destination, bytes] = pieces[begun];
      const Result result = context_.api().copy_async(destination, source, bytes, stream_.get());
      if (result == kOk) continue;
      if (begun > 0) last = finish(std::move(event), stream_.get());
      context_.check(result, "cuMemcpyAsync", kCannotCopy);
    }
    last = finish(std::move(event), stream_.get());
  }

  // Needs slabs, and room for table_bytes(load). `blocks` gather.
  void copy(const Kernels& kernels, Load load, unsigned blocks, uint64_t& last) {
    Slabs::Slab& slab = slabs_->next();
    const Address address = slab.memory.address();
    const StreamHandle filling = slabs_->filling.get();
    for (Section& section : load.gather) {
      for (LanePair& lane : section.lanes) lane.destination += address;
    }
    for (Piece& piece : load.pieces) piece.source += address;
    context_.check(context_.api().stream_wait(filling, slab.emptied.get(), 0), "cuStreamWaitEvent",
                   kCannotCopy);
    for (const Launch& launch : launches_of(load.gather)) {
      last = start(kernels, launch, filling, blocks);
    }
    record(slab.filled, filling);
    context_.check(context_.api().stream_wait(stream_.get(), slab.filled.get(), 0),
                   "cuStreamWaitEvent", kCannotCopy);
    copy(load.pieces, last);
    const Result result = context_.api().event_record(slab.emptied.get(), stream_.get());
    // Nothing would keep the next load out of the slab.
    if (result != kOk) context_.fail("cuEventRecord", result);
  }

  static size_t table_bytes(const Load& load) {
    size_t bytes = 0;
    for (const Section& section : load.gather) {
      constexpr size_t kAlignment = 16;
      bytes += section.lanes.size() * sizeof(LanePair) + section.pages.size() * sizeof(PagePair) +
               kAlignment;
    }
    return bytes;
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

  // A launch, or some copies of a copy engine.
  struct Running {
    Event event;
    uint64_t ring_end;
  };

  void wait_for(EventHandle event) {
    const Api& api = context_.api();
    context_.check(api.stream_wait(stream_.get(), event, 0), "cuStreamWaitEvent", kCannotCopy);
    if (!slabs_) return;
    context_.check(api.stream_wait(slabs_->filling.get(), event, 0), "cuStreamWaitEvent",
                   kCannotCopy);
  }

  void record(const Event& event, StreamHandle stream) {
    context_.check(context_.api().event_record(event.get(), stream), "cuEventRecord", kCannotCopy);
  }

  Result copy_batch(std::span<const Piece> pieces) {
    std::vector<Address> to, from;
    std::vector<size_t> bytes;
    for (const Piece& piece : pieces) {
      to.push_back(piece.destination);
      from.push_back(piece.source);
      bytes.push_back(piece.bytes);
    }
    CopyAttributes attributes;
    size_t first = 0, failed = 0;
    return context_.api().copy_batch_async(to.data(), from.data(), bytes.data(), pieces.size(),
                                           &attributes, &first, 1, &failed, stream_.get());
  }

  uint64_t start(const Kernels& kernels, const Launch& launch, StreamHandle stream,
                 unsigned blocks) {
    const uint64_t start = start_of(launch.table_bytes);
    const uint64_t at = start % kRingBytes;
    LaunchOnGpu parameter = write_launch(launch, ring_.data() + at, ring_.address() + at);
    constexpr unsigned kThreads = 1024, kUnitsPerBlock = kThreads / 32;
    const unsigned useful = (parameter.units + kUnitsPerBlock - 1) / kUnitsPerBlock;
    Event event = take_event();
    void* parameters[] = {&parameter};
    context_.check(context_.api().launch(kernels.copy(launch.word), std::min(blocks, useful), 1, 1,
                                         kThreads, 1, 1, 0, stream, parameters, nullptr),
                   "cuLaunchKernel", kCannotCopy);
    used_ = start + launch.table_bytes;
    return finish(std::move(event), stream);
  }

  // Of what was just begun on the stream: its number.
  uint64_t finish(Event event, StreamHandle stream) {
    const Result result = context_.api().event_record(event.get(), stream);
    if (result == kOk) {
      running_.push_back({std::move(event), used_});
    } else {
      // The copy runs, and nothing will tell when it has ended.
      context_.fail("cuEventRecord", result);
    }
    return ++begun_;
  }

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
  std::unique_ptr<Slabs> slabs_;
  bool refused_ = false;  // the slabs, by the GPU
  uint64_t used_ = 0, freed_ = 0;
  uint64_t begun_ = 0, ended_ = 0;
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
      : context_(std::move(context)),
        gathering_sms_(sms.of[static_cast<size_t>(Path::kSameGpu)]),
        limits_{.least = context_->api().copy_batch_async == nullptr ? detail::kLeastPiece
                                                                     : detail::kLeastPieceOfBatch},
        kernels_(std::make_unique<Kernels>(context_)) {
    const Context::Current current(*context_);
    for (size_t path = 0; path < kPaths; path++) {
      queues_[path] = std::make_unique<detail::Queue>(*context_, sms.of[path]);
    }
  }
  // Call stop() first: what still runs then is left alone, and so is what it uses.
  ~Copier() {
    if (!stop(std::chrono::milliseconds(0))) {
      leave();
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
    detail::Division division = detail::divide(batch, limits_);
    std::vector<detail::Launch> launches =
        detail::launches_of(division.empty() ? batch : division.rest);
    const Submitting submitting(submitting_);
    std::unique_lock lock(mutex_);
    if (const std::string broken = context_->broken(); !broken.empty()) {
      throw DriverError(detail::kCannotCopy, broken);
    }
    const Context::Current current(*context_);
    constexpr auto kToHost = static_cast<size_t>(Path::kToHost);
    if (!division.loads.empty() && !queues_[kToHost]->open_slabs()) {
      division = {};
      launches = detail::launches_of(batch);
    }
    Transfer transfer;
    try {
      std::array<bool, kPaths> ordered{};
      const auto queue_of = [&](size_t path, size_t table_bytes) -> detail::Queue& {
        detail::Queue& queue = *queues_[path];
        wait_for_room(lock, queue, table_bytes, cancelled);
        // Others may have launched in between, but on a stream a wait holds for all that follows.
        if (!std::exchange(ordered[path], true)) queue.wait_for(after);
        return queue;
      };
      if (!division.pieces.empty()) {
        queue_of(kToHost, 0).copy(division.pieces, transfer.last[kToHost]);
      }
      for (detail::Load& load : division.loads) {
        queue_of(kToHost, detail::Queue::table_bytes(load))
            .copy(*kernels_, std::move(load), gathering_sms_, transfer.last[kToHost]);
      }
      for (const detail::Launch& launch : launches) {
        const auto path = static_cast<size_t>(launch.path);
        queue_of(path, launch.table_bytes).launch(*kernels_, launch, transfer.last[path]);
      }
    } catch (const DriverError& error) {
      if (transfer.last == Transfer{}.last) throw;
      transfer.failure = error.code() + ": " + error.what();
    }
    transfers_[++last_] = std::move(transfer);
    return last_;
  }

  // As submit, for a thread that must not wait: a batch between GPUs that is one launch, when
  // nobody else submits, little runs, and no slow call of this process is in the driver. Nothing
  // was launched when it answers nothing.
  std::optional<Ticket> submit_now(const Batch& batch) {
    const std::vector<detail::Launch> launches = detail::launches_of(batch);
    if (launches.size() != 1) return std::nullopt;
    const detail::Launch& launch = launches.front();
    if (launch.path != Path::kPeer && launch.path != Path::kSameGpu) return std::nullopt;
    const Submitting submitting(submitting_);
    const std::unique_lock quick(slow_calls(), std::try_to_lock);
    if (!submitting.alone() || !quick) return std::nullopt;
    const std::lock_guard lock(mutex_);  // waits for poll to look once, at most
    detail::Queue& queue = *queues_[static_cast<size_t>(launch.path)];
    if (!context_->broken().empty() || !queue.takes_at_once(launch.table_bytes)) {
      return std::nullopt;
    }
    const Context::Current current(*context_);
    Transfer transfer;
    queue.launch(*kernels_, launch, transfer.last[static_cast<size_t>(launch.path)]);
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

  // A thread that launches or is about to, for as long as this lives.
  class Submitting {
   public:
    explicit Submitting(std::atomic<int>& threads)
        : threads_(threads), alone_(threads_.fetch_add(1) == 0) {}
    ~Submitting() { threads_--; }
    Submitting(const Submitting&) = delete;
    Submitting& operator=(const Submitting&) = delete;

    // Whether there was no other when it began.
    bool alone() const { return alone_; }

   private:
    std::atomic<int>& threads_;
    const bool alone_;
  };

  struct Transfer {
    std::array<uint64_t, kPaths> last{};  // step by path; 0: none
    std::string failure;
  };

  // Nothing that may still run is destroyed, until the process ends.
  void leave() {
    struct Left {
      decltype(queues_) queues;
      decltype(kernels_) kernels;
    };
    static std::mutex mutex;
    static auto& left = *new std::vector<Left>;
    const std::lock_guard lock(mutex);
    left.push_back({std::move(queues_), std::move(kernels_)});
  }

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
      submitting_--;
      std::this_thread::sleep_for(kPause);
      submitting_++;
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
  const unsigned gathering_sms_;
  const detail::PieceLimits limits_;
  std::unique_ptr<Kernels> kernels_;
  std::atomic<int> submitting_{0};  // threads that submit; not those that wait for room
  std::mutex mutex_;                // guards what follows
  std::array<std::unique_ptr<detail::Queue>, kPaths> queues_;
  std::map<Ticket, Transfer> transfers_;
  Ticket last_ = 0;
};

}  // namespace kvx::gpu
