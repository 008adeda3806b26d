// A transfer engine around a Driver: queues, threads, deadlines, close. No JavaScript in it.
//
// Threads.
//  * The control thread watches over the others and takes everything down. It never calls the
//  driver, so opening and closing end in time whatever the driver does.
//  * The driver thread makes the driver, registers and deregisters, and destroys the driver.
//  * Every link has one thread: it connects, then submits in order, then disconnects. So connects
//  run in
//    parallel, and a full or silent peer stalls nobody else.
//  * One poll thread watches what was posted, all deadlines, and fences.
// The calls of this class never block (stop() excepted) and may come from any thread. Their
// outcomes come back as events that carry the operation number the caller chose: `notify` is
// called, on some thread and under the engine's lock, when the first event of a batch is there;
// take_events() fetches the whole batch.
//
// The lock is never held while the driver is called: a driver may call wake() under a lock of its
// own.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "kvx/driver.h"
#include "kvx/plan.h"
#include "kvx/thread.h"

namespace kvx {

using DriverFactory = std::function<std::unique_ptr<Driver>(const Options&, const DriverContext&)>;

struct Event {
  enum class Kind { kDone, kFailed, kSettled, kPeerGone };
  uint64_t operation = 0;
  Kind kind = Kind::kDone;
  uint64_t first = 0;   // register: the region's number; transfer: bytes
  uint64_t second = 0;  // transfer: segments
  Bytes bytes;          // register: the descriptor
  std::string code, message;
  Generation peer;  // of kPeerGone, which belongs to no operation
};

class Engine : public std::enable_shared_from_this<Engine> {
 public:
  struct Settings {
    // How long opening waits for the driver to be made.
    std::chrono::milliseconds open{120000};
    // How long close waits for what was posted before it destroys the driver.
    std::chrono::milliseconds drain{2000};
    // How long close then waits for the calls of the links, of the poll thread and of the driver
    // thread to return, for each kind. A driver that stays in a call is abandoned.
    std::chrono::milliseconds stuck{10000};
  };

  static std::shared_ptr<Engine> make(DriverFactory factory, Options options, Generation generation,
                                      std::function<void()> notify, Settings settings) {
    return std::shared_ptr<Engine>(new Engine(std::move(factory), std::move(options),
                                              std::move(generation), std::move(notify), settings));
  }
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // The threads hold the engine, so none of them runs any more.
  ~Engine() {
    if (control_.joinable()) control_.detach();
  }

  // Makes the driver; call it once, before anything else.
  void open(uint64_t operation) {
    const std::lock_guard lock(mutex_);
    open_operation_ = operation;
    try {
      // In this order: a control thread without a driver thread takes everything down again.
      control_ = start_thread("kvx-control", [self = shared_from_this()] { self->run_control(); });
      driver_thread_ =
          start_thread("kvx-driver", [self = shared_from_this()] { self->run_driver(); });
      driver_running_ = true;
    } catch (const NoThread& error) {
      open_failure_ = Failure{kUnavailable, error.what()};
      closing_ = true;
      control_wake_.notify_all();
      if (!control_.joinable()) end();
    }
  }

  // Known once open has succeeded.
  Capabilities capabilities() const {
    const std::lock_guard lock(mutex_);
    return capabilities_;
  }
  Bytes address() const {
    const std::lock_guard lock(mutex_);
    return address_;
  }

  std::vector<Event> take_events() {
    const std::lock_guard lock(mutex_);
    return std::exchange(events_, {});
  }

  void register_memory(uint64_t operation, const Memory& memory) {
    const std::lock_guard lock(mutex_);
    if (closing_) return fail(operation, kClosed, "The engine is closed.");
    const auto id = static_cast<RegionId>(regions_.size());
    regions_.push_back({});
    tasks_.push_back({operation, id, memory});
    driver_wake_.notify_all();
  }

  // Waits, without holding others up, for every transfer that reads from the region to settle.
  void deregister_memory(uint64_t operation, RegionId id) {
    const std::lock_guard lock(mutex_);
    if (closing_) return done(operation);  // everything is given back with the driver
    if (id >= regions_.size() || !regions_[id].registered) {
      return fail(operation, "ERR_KVX_INVALID_STATE", "The region is not registered.");
    }
    regions_[id].registered = false;
    tasks_.push_back({operation, id, std::nullopt});
    driver_wake_.notify_all();
  }

  // The number of the new link comes back at once; it can be used after the operation is done.
  uint64_t connect(uint64_t operation, PeerAddress peer, std::chrono::milliseconds timeout) {
    const std::lock_guard lock(mutex_);
    const uint64_t id = next_link_++;
    if (closing_ || !driver_) {
      fail(operation, kClosed, "The engine is closed.");
      return id;
    }
    auto link = std::make_shared<Link>();
    link->id = id;
    link->connect_operation = operation;
    for (Bytes& region : peer.regions) {
      uint64_t bytes = 0;
      if (region.size() < sizeof bytes) {
        fail(operation, kConnectFailed, "A region descriptor of the peer is malformed.");
        return id;
      }
      std::memcpy(&bytes, region.data(), sizeof bytes);
      link->region_bytes.push_back(bytes);
      region.erase(region.begin(), region.begin() + sizeof bytes);
    }
    link->peer = std::move(peer);
    link->timeout = timeout;
    link->deadline = Clock::now() + timeout;
    try {
      link->thread =
          start_thread("kvx-link", [self = shared_from_this(), link] { self->run_link(*link); });
    } catch (const NoThread& error) {
      fail(operation, kConnectFailed, error.what());
      return id;
    }
    links_[id] = std::move(link);  // its thread waits for the lock before it looks here
    poke();
    return id;
  }

  // Gives up a connect that is under way; it fails as aborted.
  void cancel_connect(uint64_t operation) {
    const std::lock_guard lock(mutex_);
    for (auto& [id, link] : links_) {
      if (link->connect_operation == operation) {
        refuse_connect(*link, "ERR_KVX_ABORTED", "The connect was aborted.");
      }
    }
  }

  void close_link(uint64_t operation, uint64_t id) {
    const std::lock_guard lock(mutex_);
    const auto found = links_.find(id);
    if (found == links_.end()) return done(operation);
    found->second->close_operations.push_back(operation);
    close_link(*found->second, "The link was closed.");
  }

  // Answers kDone or kFailed, by the deadline at the latest, and kSettled, which may take longer.
  void write(uint64_t operation, uint64_t link_id, Plan plan, std::chrono::milliseconds timeout) {
    auto transfer = std::make_shared<Transfer>();
    transfer->operation = operation;
    transfer->plan = std::move(plan);
    transfer->timeout = timeout;
    transfer->deadline = Clock::now() + timeout;
    for (size_t i = 0; i < transfer->plan.lanes.size(); i += kLaneWidth) {
      // Compared as they are, so that a number that is no region is left to check_plan.
      const double region = transfer->plan.lanes[i];
      if (!(region >= 0 && region < 4294967296.0)) continue;
      const auto id = static_cast<RegionId>(region);
      auto& used = transfer->regions;
      if (std::find(used.begin(), used.end(), id) == used.end()) used.push_back(id);
    }
    std::shared_ptr<Link> link;
    {
      const std::lock_guard lock(mutex_);
      const auto found = links_.find(link_id);
      if (found == links_.end() || found->second->state != Link::kOpen) {
        fail(operation, kClosed, "The link is closed.");
        push({operation, Event::Kind::kSettled, 0, 0, {}, {}, {}, {}});
        return;
      }
      link = found->second;
      transfer->link = link;
      // A number that no region ever had is left to the plan check.
      std::erase_if(transfer->regions, [this](RegionId id) { return id >= regions_.size(); });
      for (const RegionId id : transfer->regions) {
        if (regions_[id].registered) continue;
        fail(operation, "ERR_KVX_PLAN_INVALID",
             "The transfer plan is invalid: source region " + std::to_string(id) +
                 " is not registered.");
        push({operation, Event::Kind::kSettled, 0, 0, {}, {}, {}, {}});
        return;
      }
      for (const RegionId id : transfer->regions) regions_[id].users++;
      link->live++;
      transfers_[operation] = transfer;
      incoming_.push_back(transfer);
      // An idle link thread tells the poll thread when it takes the transfer. Waking both from here
      // would hold up the caller, who may be on the JavaScript thread. One that comes behind
      // another is not taken before that one has ended.
      const bool waits = link->current || !link->queue.empty();
      if (waits && transfer->deadline < poll_sleeps_until_) poke();
      link->queue.push_back(std::move(transfer));
    }
    link->work.notify_one();
  }

  // Stops what is not yet posted; the transfer fails as aborted unless everything was posted
  // already.
  void cancel(uint64_t operation, std::string message) {
    const std::lock_guard lock(mutex_);
    const auto found = transfers_.find(operation);
    if (found != transfers_.end()) cancel(*found->second, "ERR_KVX_ABORTED", std::move(message));
  }

  void fence(uint64_t operation, Generation generation) {
    const std::lock_guard lock(mutex_);
    if (closing_) return fail(operation, kClosed, "The engine is closed.");
    if (capabilities_.fence == "engine") {
      return fail(operation, "ERR_KVX_INVALID_STATE",
                  "This engine cannot fence a single peer: closing it is the fence for everybody.");
    }
    fences_[operation] = std::move(generation);
    poke();
  }
  void cancel_fence(uint64_t operation) {
    const std::lock_guard lock(mutex_);
    fences_.erase(operation);
  }

  // Cancels, drains, destroys the driver. Idempotent; every operation is answered.
  void close(uint64_t operation) {
    const std::lock_guard lock(mutex_);
    if (closed_) return answer_close(operation);
    close_operations_.push_back(operation);
    closing_ = true;
    control_wake_.notify_all();
  }

  // Closes and waits, for callers that are about to go away. Bounded.
  void stop(std::chrono::milliseconds drain) {
    std::unique_lock lock(mutex_);
    settings_.drain = std::min(settings_.drain, drain);
    closing_ = true;
    control_wake_.notify_all();
    const bool ended =
        closed_wake_.wait_for(lock, settings_.drain + 3 * settings_.stuck + std::chrono::seconds(1),
                              [this] { return closed_; });
    lock.unlock();
    if (!control_.joinable()) return;
    if (ended) {
      control_.join();
    } else {
      control_.detach();
    }
  }

 private:
  static constexpr const char* kClosed = "ERR_KVX_CLOSED";
  static constexpr const char* kConnectFailed = "ERR_KVX_CONNECT_FAILED";
  static constexpr const char* kUnavailable = "ERR_KVX_BACKEND_UNAVAILABLE";
  static constexpr const char* kInternal = "ERR_KVX_INTERNAL";
  // A poll round after news spins this long before it sleeps, ...
  static constexpr std::chrono::microseconds kSpin{50};
  // ... and then sleeps in steps that double from the first to the second.
  static constexpr std::chrono::microseconds kFirstSleep{50};
  static constexpr std::chrono::microseconds kLongestSleep{1000};
  // What was answered and has not settled is asked in steps that grow to this one, however much
  // else is going on: a driver may go on answering `failed` for as long as the engine lives.
  static constexpr std::chrono::microseconds kLongestGraveSleep{20000};

  struct Link;

  // The driver call that a thread is in, or null.
  using Call = std::atomic<const char*>;

  struct Failure {
    std::string code, message;
  };

  struct Transfer {
    uint64_t operation = 0;
    std::shared_ptr<Link> link;
    Plan plan;
    std::vector<RegionId> regions;  // source regions that must stay registered
    std::chrono::milliseconds timeout{};
    Clock::time_point deadline;
    std::atomic<bool> cancelled{false};
    // Under the engine's lock:
    bool answered = false;
    bool submitting = true;          // in the queue or in the hands of the link thread
    std::optional<Failure> failure;  // the first cause
    std::optional<Failure> cancellation;
    std::vector<TransferId> posted;  // on the way to the poll thread
    uint64_t bytes = 0, segments = 0;
    // Poll thread only:
    std::vector<TransferId> polling;
    bool buried = false;  // answered, and some of it has not settled
    Clock::duration grave_sleep = kFirstSleep;
    Clock::time_point grave_wake = Clock::time_point::min();
  };

  struct Link {
    enum State { kConnecting, kOpen, kClosing };
    uint64_t id = 0;
    uint64_t connect_operation = 0;
    PeerAddress peer;
    PeerId peer_id = 0;  // link thread only
    std::vector<uint64_t> region_bytes;
    std::chrono::milliseconds timeout{};
    Clock::time_point deadline;
    std::atomic<bool> cancelled{false};
    // Under the engine's lock:
    State state = kConnecting;
    bool answered = false;
    std::deque<std::shared_ptr<Transfer>> queue;
    std::shared_ptr<Transfer> current;
    size_t live = 0;  // transfers that have not settled
    std::vector<uint64_t> close_operations;
    std::condition_variable work;
    std::thread thread;
    Call call{nullptr};
  };

  struct Region {
    bool registered = false;
    uint64_t bytes = 0;
    size_t users = 0;
  };

  struct Task {
    uint64_t operation;
    RegionId region;
    std::optional<Memory> memory;  // absent: deregister
  };

  Engine(DriverFactory factory, Options options, Generation generation,
         std::function<void()> notify, Settings settings)
      : factory_(std::move(factory)),
        options_(std::move(options)),
        generation_(std::move(generation)),
        notify_(std::move(notify)),
        settings_(settings) {}

  // Runs a driver call, whose name is in `call` meanwhile; what it throws becomes the failure.
  // `without_thread`: the code when the driver could not start a thread.
  template <typename Body>
  static std::optional<Failure> guarded(Call& call, const char* name, Body body,
                                        const char* without_thread = kInternal) {
    std::optional<Failure> failure;
    call = name;
    try {
      body();
    } catch (const DriverError& error) {
      failure = Failure{error.code(), error.what()};
    } catch (const NoThread& error) {
      failure = Failure{without_thread, error.what()};
    } catch (const std::exception& error) {
      failure = Failure{kInternal, std::string("The driver threw: ") + error.what()};
    } catch (...) {
      failure = Failure{kInternal, "The driver threw something that is no exception."};
    }
    call = nullptr;
    return failure;
  }

  // --- The rest runs under the lock unless it says otherwise. ---

  void push(Event event) {
    events_.push_back(std::move(event));
    if (events_.size() == 1) notify_();
  }
  void done(uint64_t operation, uint64_t first = 0, uint64_t second = 0, Bytes bytes = {}) {
    push({operation, Event::Kind::kDone, first, second, std::move(bytes), {}, {}, {}});
  }
  void fail(uint64_t operation, std::string code, std::string message) {
    push({operation, Event::Kind::kFailed, 0, 0, {}, std::move(code), std::move(message), {}});
  }

  void poke() {
    poked_ = true;
    poll_wake_.notify_one();
  }

  void refuse_connect(Link& link, std::string code, std::string message) {
    link.cancelled = true;
    if (link.answered) return;
    link.answered = true;
    fail(link.connect_operation, std::move(code), std::move(message));
  }

  void close_link(Link& link, const char* why) {
    if (link.state == Link::kConnecting) refuse_connect(link, kClosed, why);
    link.state = Link::kClosing;
    const auto queue = link.queue;  // cancel() takes them out of the original
    for (const auto& transfer : queue) cancel(*transfer, kClosed, why);
    if (link.current) cancel(*link.current, kClosed, why);
    link.work.notify_all();
  }

  void cancel(Transfer& transfer, std::string code, std::string message) {
    if (!transfer.submitting) return;
    transfer.cancelled = true;
    auto& queue = transfer.link->queue;
    const auto queued = std::find_if(queue.begin(), queue.end(),
                                     [&](const auto& other) { return other.get() == &transfer; });
    if (queued != queue.end()) {
      // Nothing of it was posted: it ends here, however long its link is held up.
      queue.erase(queued);
      transfer.submitting = false;
      set_failure(transfer, {std::move(code), std::move(message)});
      poke();
    } else if (!transfer.cancellation) {
      transfer.cancellation = Failure{std::move(code), std::move(message)};
    }
  }

  static void set_failure(Transfer& transfer, Failure failure) {
    if (!transfer.failure) transfer.failure = std::move(failure);
    transfer.cancelled = true;
  }

  void answer(Transfer& transfer) {
    if (transfer.answered) return;
    transfer.answered = true;
    if (transfer.failure) {
      fail(transfer.operation, transfer.failure->code, transfer.failure->message);
    } else {
      done(transfer.operation, transfer.bytes, transfer.segments);
    }
  }

  void settle(Transfer& transfer) {
    answer(transfer);
    push({transfer.operation, Event::Kind::kSettled, 0, 0, {}, {}, {}, {}});
    for (const RegionId id : transfer.regions) regions_[id].users--;
    transfer.link->live--;
    transfer.link->work.notify_all();
    driver_wake_.notify_all();  // a deregistration may wait for it
    transfers_.erase(transfer.operation);
  }

  void answer_close(uint64_t operation) {
    if (!abandoned_.empty()) {
      fail(operation, "ERR_KVX_INVALID_STATE",
           "The engine was closed, but bytes of its transfers may still land: " + abandoned_);
    } else if (!unsettled_.empty()) {
      fail(operation, "ERR_KVX_UNSETTLED",
           "The engine was closed, but bytes that it sent may still land: " + unsettled_);
    } else {
      done(operation);
    }
  }

  // --- Link threads: these lock for themselves ---

  void run_link(Link& link) {
    const auto failure = guarded(
        link.call, "connect",
        [&] { link.peer_id = driver_->connect(link.peer, link.deadline, link.cancelled); },
        kConnectFailed);
    std::unique_lock lock(mutex_);
    if (failure) {
      refuse_connect(link, failure->code, failure->message);
    } else {
      if (!link.answered && link.state == Link::kConnecting) {
        link.answered = true;
        link.state = Link::kOpen;
        done(link.connect_operation);
        submit_until_closed(lock, link);
      }
      lock.unlock();
      guarded(link.call, "disconnect", [&] { driver_->disconnect(link.peer_id); });
      lock.lock();
    }
    for (const uint64_t operation : link.close_operations) done(operation);
    retired_.push_back(std::move(link.thread));
    links_.erase(link.id);
    control_wake_.notify_all();
  }

  void submit_until_closed(std::unique_lock<std::mutex>& lock, Link& link) {
    std::vector<Segment> batch;  // kept, so that its memory is used again
    for (;;) {
      link.work.wait(lock, [&] {
        return !link.queue.empty() ||
               (link.state == Link::kClosing && (link.live == 0 || give_up_));
      });
      if (link.queue.empty()) return;
      link.current = std::move(link.queue.front());
      link.queue.pop_front();
      const auto transfer = link.current;
      if (transfer->deadline < poll_sleeps_until_) poke();
      lock.unlock();
      submit(link, *transfer, batch);
      transfer->plan = {};
      lock.lock();
      link.current = nullptr;
      transfer->submitting = false;
      poke();
    }
  }

  void submit(Link& link, Transfer& transfer, std::vector<Segment>& batch) {
    std::vector<uint64_t> source_bytes;
    Capabilities limits;
    {
      const std::lock_guard lock(mutex_);
      for (const Region& region : regions_) source_bytes.push_back(region.bytes);
      limits = capabilities_;
    }
    uint64_t bytes = 0;
    try {
      bytes = check_plan(transfer.plan, source_bytes, link.region_bytes);
    } catch (const PlanError& error) {
      const std::lock_guard lock(mutex_);
      set_failure(transfer, {"ERR_KVX_PLAN_INVALID",
                             std::string("The transfer plan is invalid: ") + error.what() + "."});
      return;
    }
    const size_t most = limits.max_batch_segments > 0 ? limits.max_batch_segments : kDefaultBatch;
    uint64_t segments = 0;
    batch.clear();
    const auto post = [&] {
      TransferId id = 0;
      std::optional<Failure> failure;
      const bool cancelled = transfer.cancelled;
      if (!cancelled) {
        failure = guarded(link.call, "submit",
                          [&] { id = driver_->submit(link.peer_id, batch, transfer.cancelled); });
      }
      segments += batch.size();
      batch.clear();
      const std::lock_guard lock(mutex_);
      if (cancelled || failure) {
        // Whoever cancelled is the cause, also of a submit that gave up because of it.
        if (transfer.cancellation) set_failure(transfer, *transfer.cancellation);
        if (failure) set_failure(transfer, *failure);
        return false;
      }
      transfer.posted.push_back(id);
      poke();
      return true;
    };
    bool going = true;
    expand_plan(transfer.plan, limits.max_segment_bytes, [&](const Segment& segment) {
      batch.push_back(segment);
      if (batch.size() == most) going = post();
      return going;
    });
    if (going && !batch.empty()) post();
    const std::lock_guard lock(mutex_);
    transfer.bytes = bytes;
    transfer.segments = segments;
  }

  // --- The poll thread: locks for itself ---

  void run_poll() {
    std::vector<std::shared_ptr<Transfer>> active;
    std::vector<std::pair<uint64_t, Generation>> fences;
    std::vector<std::pair<Transfer*, Failure>> failures;
    std::vector<uint64_t> fenced;
    auto last_news = Clock::now();
    auto sleep = kFirstSleep;
    std::unique_lock lock(mutex_);
    while (!stop_poll_) {
      if (std::exchange(poked_, false)) {
        last_news = Clock::now();
        sleep = kFirstSleep;
      }
      std::move(incoming_.begin(), incoming_.end(), std::back_inserter(active));
      incoming_.clear();
      for (const auto& transfer : active) {
        auto& posted = transfer->posted;
        transfer->polling.insert(transfer->polling.end(), posted.begin(), posted.end());
        posted.clear();
      }
      fences.assign(fences_.begin(), fences_.end());
      lock.unlock();
      bool news = false, pending = false;
      for (const auto& transfer : active) {
        if (transfer->buried && Clock::now() < transfer->grave_wake) continue;
        news |= std::erase_if(transfer->polling, [&](TransferId id) {
                  return poll_posted(*transfer, id, failures);
                }) > 0;
        if (transfer->polling.empty()) continue;
        pending |= !transfer->buried;
        if (!transfer->buried) continue;
        transfer->grave_wake = Clock::now() + transfer->grave_sleep;
        transfer->grave_sleep =
            std::min<Clock::duration>(transfer->grave_sleep * 2, kLongestGraveSleep);
      }
      for (const auto& [operation, generation] : fences) {
        guarded(poll_call_, "fenced", [&] {
          if (driver_->fenced(generation)) fenced.push_back(operation);
        });
      }
      lock.lock();
      for (auto& [transfer, failure] : failures) {
        set_failure(*transfer, std::move(failure));
        answer(*transfer);
      }
      for (const uint64_t operation : fenced) {
        if (fences_.erase(operation) > 0) done(operation);
      }
      news |= !failures.empty() || !fenced.empty();
      failures.clear();
      fenced.clear();
      const auto now = Clock::now();
      auto next = expire(active, now);
      for (const auto& transfer : active) {
        transfer->buried = transfer->answered;
        if (transfer->buried && !transfer->polling.empty())
          next = std::min(next, std::max(now, transfer->grave_wake));
      }
      news |= std::erase_if(active, [&](const auto& transfer) {
                const bool settled =
                    !transfer->submitting && transfer->polling.empty() && transfer->posted.empty();
                if (settled) settle(*transfer);
                return settled;
              }) > 0;
      if (news) {
        last_news = now;
        sleep = kFirstSleep;
      }
      if (stop_poll_ || poked_ || !incoming_.empty()) continue;
      if (pending && now - last_news < kSpin) {
        lock.unlock();
        std::this_thread::yield();
        lock.lock();
        continue;
      }
      poll_sleeps_until_ = next;
      if (pending || !fences_.empty()) {
        poll_sleeps_until_ = std::min(next, now + sleep);
        sleep = std::min(sleep * 2, pending ? kLongestSleep : kLongestFenceSleep);
      }
      if (poll_sleeps_until_ == Clock::time_point::max()) {
        poll_wake_.wait(lock);
      } else {
        poll_wake_.wait_until(lock, poll_sleeps_until_);
      }
      poll_sleeps_until_ = Clock::time_point::min();  // awake
    }
    poll_running_ = false;
    control_wake_.notify_all();
  }

  // True when nothing more can come of it. Not under the lock.
  bool poll_posted(Transfer& transfer, TransferId id,
                   std::vector<std::pair<Transfer*, Failure>>& failures) {
    std::string reason;
    State state = State::kPending;
    const auto thrown = guarded(poll_call_, "poll", [&] { state = driver_->poll(id, reason); });
    if (thrown) {
      state = State::kFailed;  // nothing is known, so nothing is said to have settled
      reason = thrown->code + ": " + thrown->message;
    }
    if (state == State::kPending) return false;
    if (state != State::kDone && !transfer.buried) {
      failures.emplace_back(&transfer, failure_of(std::move(reason)));
    }
    if (state == State::kFailed) return false;
    guarded(poll_call_, "release", [&] { driver_->release(id); });
    return true;
  }

  static Failure failure_of(std::string reason) {
    const size_t colon = reason.find(": ");
    if (colon != std::string::npos && reason.starts_with("ERR_KVX_") &&
        reason.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZ_") == colon) {
      return {reason.substr(0, colon), reason.substr(colon + 2)};
    }
    if (reason.empty()) reason = "The engine reported that the transfer failed, without a reason.";
    return {"ERR_KVX_TRANSFER_FAILED", std::move(reason)};
  }

  // Fails what is past its deadline; returns the next one. Under the lock.
  Clock::time_point expire(const std::vector<std::shared_ptr<Transfer>>& active,
                           Clock::time_point now) {
    auto next = Clock::time_point::max();
    for (const auto& transfer : active) {
      if (transfer->answered) continue;
      if (now < transfer->deadline) {
        next = std::min(next, transfer->deadline);
        continue;
      }
      const Failure failure{
          "ERR_KVX_TRANSFER_TIMEOUT",
          "The transfer did not end within " + std::to_string(transfer->timeout.count()) + " ms."};
      cancel(*transfer, failure.code, failure.message);
      set_failure(*transfer, failure);
      answer(*transfer);
    }
    for (const auto& [id, link] : links_) {
      if (link->answered) continue;
      // The driver knows the deadline and gives the better reason; this is for one that stays
      // silent.
      const auto deadline = link->deadline + kConnectGrace;
      if (now < deadline) {
        next = std::min(next, deadline);
        continue;
      }
      refuse_connect(
          *link, kConnectFailed,
          "The peer did not answer within " + std::to_string(link->timeout.count()) + " ms.");
    }
    return next;
  }

  // --- The driver thread: locks for itself ---

  void run_driver() {
    std::unique_ptr<Driver> driver;
    std::optional<Capabilities> capabilities;
    Bytes address;
    auto failure = guarded(
        driver_call_, "open",
        [&] {
          // Holds the engine, so that the threads of a driver that had to be abandoned can still
          // call it.
          const auto wake = [self = shared_from_this()] {
            const std::lock_guard lock(self->mutex_);
            self->poke();
          };
          const auto peer_gone = [self = shared_from_this()](const Generation& peer,
                                                             const std::string& reason) {
            const std::lock_guard lock(self->mutex_);
            if (self->closing_) return;
            self->push({0, Event::Kind::kPeerGone, 0, 0, {}, {}, reason, peer});
          };
          driver = factory_(options_, {generation_, wake, peer_gone});
          if (!driver) throw DriverError(kInternal, "The factory made no driver.");
          capabilities = driver->capabilities();
          address = driver->address();
        },
        kUnavailable);
    factory_ = nullptr;
    std::unique_lock lock(mutex_);
    if (!failure && !closing_) {
      try {
        poll_ = start_thread("kvx-poll", [self = shared_from_this()] { self->run_poll(); });
        poll_running_ = true;
      } catch (const NoThread& error) {
        failure = Failure{kUnavailable, error.what()};
      }
    }
    if (failure || closing_) {
      // Nobody else has seen it.
      lock.unlock();
      guarded(driver_call_, "close", [&] { driver.reset(); });
      lock.lock();
      if (!open_failure_) open_failure_ = std::move(failure);
      closing_ = true;
    } else {
      driver_ = std::move(driver);
      capabilities_ = *capabilities;
      address_ = std::move(address);
      done(*std::exchange(open_operation_, std::nullopt));
      control_wake_.notify_all();
      while (driver_order_ == DriverOrder::kWork) {
        if (!run_task(lock)) driver_wake_.wait(lock);
      }
      if (driver_order_ == DriverOrder::kDestroy) {
        driver = std::move(driver_);
        lock.unlock();
        std::string abandoned, unsettled;
        guarded(driver_call_, "close", [&] {
          driver->stop();
          abandoned = driver->abandon_reason();
          unsettled = driver->unsettled_reason();
          driver.reset();
        });
        lock.lock();
        if (abandoned_.empty()) abandoned_ = std::move(abandoned);
        unsettled_ = std::move(unsettled);
      }
    }
    driver_running_ = false;
    control_wake_.notify_all();
  }

  // --- The control thread: locks for itself ---

  void run_control() {
    std::unique_lock lock(mutex_);
    const auto opened_by = Clock::now() + settings_.open;
    while (!closing_) {
      if (join_retired(lock)) continue;
      if (!open_operation_) {
        control_wake_.wait(lock);
      } else if (control_wake_.wait_until(lock, opened_by) == std::cv_status::timeout &&
                 open_operation_ && !closing_) {
        open_failure_ = Failure{kUnavailable, "The engine did not start within " +
                                                  std::to_string(settings_.open.count()) + " ms."};
        closing_ = true;
      }
    }
    shut_down(lock);
    end();
  }

  // The last thing: everything is answered.
  void end() {
    closed_ = true;
    if (const auto operation = std::exchange(open_operation_, std::nullopt)) {
      const Failure failure =
          open_failure_.value_or(Failure{kClosed, "The engine was closed while it was opened."});
      fail(*operation, failure.code, failure.message);
    }
    for (const uint64_t close : close_operations_) answer_close(close);
    closed_wake_.notify_all();
  }

  bool join_retired(std::unique_lock<std::mutex>& lock) {
    if (retired_.empty()) return false;
    auto retired = std::exchange(retired_, {});
    lock.unlock();
    for (auto& thread : retired) thread.join();
    lock.lock();
    return true;
  }

  bool run_task(std::unique_lock<std::mutex>& lock) {
    const auto ready = std::find_if(tasks_.begin(), tasks_.end(), [this](const Task& task) {
      return task.memory || regions_[task.region].users == 0;
    });
    if (ready == tasks_.end()) return false;
    const Task task = std::move(*ready);
    tasks_.erase(ready);
    running_task_ = task.operation;
    if (!task.memory) regions_[task.region].bytes = 0;
    lock.unlock();
    Bytes descriptor;
    const auto failure =
        guarded(driver_call_, task.memory ? "register_memory" : "deregister_memory", [&] {
          if (task.memory) {
            driver_->register_memory(task.region, *task.memory, descriptor);
          } else {
            driver_->deregister_memory(task.region);
          }
        });
    if (task.memory && !failure) {
      // What plan checks on the writer's side need goes in front of what the driver needs.
      const auto* size = reinterpret_cast<const uint8_t*>(&task.memory->bytes);
      descriptor.insert(descriptor.begin(), size, size + sizeof task.memory->bytes);
    }
    lock.lock();
    // A close that had to leave it alone has answered it.
    if (!std::exchange(running_task_, std::nullopt)) return true;
    if (failure) {
      fail(task.operation, failure->code, failure->message);
    } else {
      if (task.memory) {
        regions_[task.region].registered = true;
        regions_[task.region].bytes = task.memory->bytes;
      }
      done(task.operation, task.region, 0, std::move(descriptor));
    }
    return true;
  }

  void shut_down(std::unique_lock<std::mutex>& lock) {
    constexpr const char* kWhy = "The engine was closed.";
    for (const Task& task : std::exchange(tasks_, {})) {
      if (task.memory) {
        fail(task.operation, kClosed, kWhy);
      } else {
        done(task.operation);
      }
    }
    for (const auto& [operation, generation] : std::exchange(fences_, {})) {
      fail(operation, kClosed, kWhy);
    }
    for (const auto& [id, link] : links_) close_link(*link, kWhy);
    const auto unlinked = [this] { return links_.empty(); };
    // Connects that are under way get as long as a stuck call, and notice that they are cancelled.
    control_wake_.wait_for(lock, settings_.drain, unlinked);
    give_up_ = true;
    for (const auto& [id, link] : links_) link->work.notify_all();
    control_wake_.wait_for(lock, settings_.stuck, unlinked);
    stop_poll_ = true;
    poll_wake_.notify_all();
    control_wake_.wait_for(lock, settings_.stuck, [this] { return !poll_running_; });
    // Rule 6: what a link or the poll thread may still use is not destroyed. The last of the
    // threads that stay destroys it, when its call returns after all.
    const bool unused = links_.empty() && !poll_running_;
    driver_order_ = unused ? DriverOrder::kDestroy : DriverOrder::kLeave;
    driver_wake_.notify_all();
    control_wake_.wait_for(lock, settings_.stuck, [this] { return !driver_running_; });
    if (!unused || driver_running_) {
      abandoned_ = "the driver did not return from " + stuck_calls() +
                   ", so it was left as it is. Its memory stays registered.";
    }
    for (const auto& [id, link] : links_) {
      link->thread.detach();
      for (const uint64_t close : std::exchange(link->close_operations, {})) {
        fail(close, kClosed, kWhy);
      }
    }
    join_retired(lock);
    finish(lock, poll_, poll_running_);
    finish(lock, driver_thread_, driver_running_);
    if (const auto operation = std::exchange(running_task_, std::nullopt)) {
      fail(*operation, kClosed, kWhy);
    }
    const auto left = transfers_;  // settle() takes them out of the original
    for (const auto& [operation, transfer] : left) {
      set_failure(*transfer, {kClosed, kWhy});
      answer(*transfer);
      if (abandoned_.empty() && unsettled_.empty()) settle(*transfer);
    }
  }

  // Joins a thread that has ended, or is about to; leaves one that is stuck to itself.
  static void finish(std::unique_lock<std::mutex>& lock, std::thread& thread, bool running) {
    if (!thread.joinable()) return;
    if (running) return thread.detach();
    lock.unlock();
    thread.join();
    lock.lock();
  }

  std::string stuck_calls() const {
    std::vector<std::string> calls;
    const auto add = [&calls](const Call& call, const std::string& whose) {
      if (const char* name = call) calls.push_back(name + whose);
    };
    for (const auto& [id, link] : links_) add(link->call, " (peer " + link->peer.generation + ")");
    add(poll_call_, "");
    add(driver_call_, "");
    if (calls.empty()) return "a call";
    std::string text;
    for (const std::string& call : calls) text += (text.empty() ? "" : ", ") + call;
    return text;
  }

  static constexpr size_t kDefaultBatch = 1024;
  static constexpr std::chrono::microseconds kLongestFenceSleep{20000};
  static constexpr std::chrono::milliseconds kConnectGrace{250};

  DriverFactory factory_;
  const Options options_;
  const Generation generation_;
  const std::function<void()> notify_;
  Settings settings_;

  mutable std::mutex mutex_;
  std::condition_variable control_wake_, driver_wake_, poll_wake_, closed_wake_;
  std::unique_ptr<Driver> driver_;
  Capabilities capabilities_;
  Bytes address_;
  std::vector<Event> events_;
  std::vector<Region> regions_;
  std::deque<Task> tasks_;
  std::unordered_map<uint64_t, std::shared_ptr<Link>> links_;
  uint64_t next_link_ = 1;
  std::unordered_map<uint64_t, std::shared_ptr<Transfer>> transfers_;
  std::vector<std::shared_ptr<Transfer>> incoming_;  // on the way to the poll thread
  std::map<uint64_t, Generation> fences_;
  Clock::time_point poll_sleeps_until_ = Clock::time_point::min();
  std::vector<uint64_t> close_operations_;
  std::vector<std::thread> retired_;  // of links that have ended: to be joined
  std::string abandoned_, unsettled_;
  std::optional<uint64_t> open_operation_;  // not answered yet
  std::optional<Failure> open_failure_;
  std::optional<uint64_t> running_task_;  // the operation that the driver thread is at
  // What the driver thread is to do: after kWork, either of the others, once.
  enum class DriverOrder { kWork, kDestroy, kLeave } driver_order_ = DriverOrder::kWork;
  bool poked_ = false, closing_ = false, give_up_ = false, stop_poll_ = false, closed_ = false;
  bool driver_running_ = false, poll_running_ = false;
  Call driver_call_{nullptr}, poll_call_{nullptr};
  std::thread poll_, driver_thread_, control_;
};

}  // namespace kvx
