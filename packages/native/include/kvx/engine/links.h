// Links to peers. Each has one thread: it connects, then submits in order, then disconnects. So
// connects run in parallel, and a full or silent peer stalls nobody else. What a driver can post at
// once the thread that writes submits itself, when nothing is before it: waking another one would
// take longer than the rest of it.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "kvx/driver.h"
#include "kvx/engine/failure.h"
#include "kvx/engine/regions.h"
#include "kvx/engine/shared.h"
#include "kvx/engine/transfers.h"
#include "kvx/plan.h"
#include "kvx/thread.h"

namespace kvx::engine {

class Links {
 public:
  Links(Shared& shared, Regions& regions, Transfers& transfers)
      : shared_(shared), regions_(regions), transfers_(transfers) {}

  // --- Under the lock ---

  // The number of the new link comes back at once; it can be used after the operation is done. The
  // link's thread holds `engine`.
  uint64_t connect(uint64_t operation, PeerAddress peer, std::chrono::milliseconds timeout,
                   std::shared_ptr<void> engine) {
    const uint64_t id = next_link_++;
    if (shared_.closing || !shared_.driver) {
      shared_.outbox.fail(operation, engine_closed());
      return id;
    }
    auto link = std::make_shared<Link>();
    link->id = id;
    link->connect_operation = operation;
    for (Bytes& region : peer.regions) {
      uint64_t bytes = 0;
      if (region.size() < sizeof bytes) {
        shared_.outbox.fail(operation,
                            {kConnectFailed, "A region descriptor of the peer is malformed."});
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
          start_thread("kvx-link", [this, engine = std::move(engine), link] { run(*link); });
    } catch (const NoThread& error) {
      shared_.outbox.fail(operation, {kConnectFailed, error.what()});
      return id;
    }
    links_[id] = std::move(link);  // its thread waits for the lock before it looks here
    shared_.poll_wakeup.notify();
    return id;
  }

  // Gives up a connect that is under way; it fails as aborted.
  void cancel_connect(uint64_t operation) {
    for (auto& [id, link] : links_) {
      if (link->connect_operation == operation) {
        refuse(*link, {kAborted, "The connect was aborted."});
      }
    }
  }

  void close(uint64_t operation, uint64_t id) {
    const auto found = links_.find(id);
    if (found == links_.end()) return shared_.outbox.done(operation);
    found->second->close_operations.push_back(operation);
    close(*found->second, {kClosed, "The link was closed."});
  }

  // Takes a new transfer. The lock is open afterwards, and while the driver is called.
  void write(Lock& lock, const std::shared_ptr<Transfer>& transfer, uint64_t id) {
    const auto found = links_.find(id);
    if (found == links_.end() || found->second->state != Link::kOpen) {
      transfers_.refuse(transfer->operation, {kClosed, "The link is closed."});
      return lock.unlock();
    }
    const std::shared_ptr<Link> link = found->second;
    SubmitQueue& queue = link->queue;
    transfers_.add(transfer, {link, &queue});
    // Behind others that are under way nothing is lost while a thread wakes.
    const bool is_alone = queue.live == 1 && !queue.waiting.empty();
    if (is_alone && link->submits_now && is_brief(*transfer)) submit_now(lock, *link);
    const bool work = !queue.current && (!queue.waiting.empty() || queue.closing);
    lock.unlock();
    if (work) queue.work.notify_one();
  }

  // Fails the connects that the driver has not ended by their deadline; returns the next deadline.
  Clock::time_point expire(Clock::time_point now) {
    auto next = Clock::time_point::max();
    for (const auto& [id, link] : links_) {
      if (link->answered) continue;
      // The driver knows the deadline and gives the better reason; this is for one that stays
      // silent.
      const auto deadline = link->deadline + kConnectGrace;
      if (now < deadline) {
        next = std::min(next, deadline);
        continue;
      }
      refuse(*link, {kConnectFailed, "The peer did not answer within " +
                                         std::to_string(link->timeout.count()) + " ms."});
    }
    return next;
  }

  // --- Under the lock, and for the control thread only ---

  bool empty() const { return links_.empty(); }

  void close_all(const Failure& why) {
    for (const auto& [id, link] : links_) close(*link, why);
  }

  // From now on a link that is closed does not wait for its transfers to settle.
  void give_up() {
    giving_up_ = true;
    for (const auto& [id, link] : links_) link->queue.work.notify_all();
  }

  // Detaches the threads that are stuck in a driver call, and answers whoever closes their links.
  void leave(const Failure& why) {
    for (const auto& [id, link] : links_) {
      link->thread.detach();
      for (const uint64_t operation : std::exchange(link->close_operations, {})) {
        shared_.outbox.fail(operation, why);
      }
    }
  }

  // Joins the threads of links that have ended; whether there were any.
  bool join_ended(Lock& lock) {
    if (ended_.empty()) return false;
    auto ended = std::exchange(ended_, {});
    lock.unlock();
    for (auto& thread : ended) thread.join();
    lock.lock();
    return true;
  }

  // The driver calls that links are in, and of which peer.
  void add_calls(std::vector<std::string>& calls) const {
    for (const auto& [id, link] : links_) {
      if (const char* name = link->call) {
        calls.push_back(std::string(name) + " (peer " + link->peer.generation + ")");
      }
    }
  }

 private:
  static constexpr size_t kDefaultBatch = 1024;
  static constexpr size_t kBriefRows = 2048;
  static constexpr std::chrono::milliseconds kConnectGrace{250};

  struct Link {
    enum State { kConnecting, kOpen, kClosing };
    uint64_t id = 0;
    uint64_t connect_operation = 0;
    PeerAddress peer;
    PeerId peer_id = 0;        // since connect, as the next
    bool submits_now = false;  // what the driver says
    std::vector<uint64_t> region_bytes;
    std::chrono::milliseconds timeout{};
    Clock::time_point deadline;
    std::atomic<bool> cancelled{false};
    // Under the engine's lock:
    State state = kConnecting;
    bool answered = false;
    SubmitQueue queue;
    std::vector<uint64_t> close_operations;
    std::thread thread;
    Call call{nullptr};
  };

  void refuse(Link& link, Failure failure) {
    link.cancelled = true;
    if (link.answered) return;
    link.answered = true;
    shared_.outbox.fail(link.connect_operation, std::move(failure));
  }

  void close(Link& link, const Failure& why) {
    if (link.state == Link::kConnecting) refuse(link, why);
    link.state = Link::kClosing;
    link.queue.closing = true;
    transfers_.cancel_all(link.queue, why);
    link.queue.work.notify_all();
  }

  // Whether checking it takes no longer than waking a thread. Without pages: a driver sees to
  // those.
  static bool is_brief(const Transfer& transfer) {
    const Plan& plan = transfer.plan;
    const size_t rows = plan.lanes.size() / kLaneWidth + plan.groups.size() / kGroupWidth;
    return transfer.after.kind == After::Kind::kNothing &&
           rows * (plan.blocks.size() / kBlockWidth) <= kBriefRows;
  }

  // The first transfer that waits. What cannot be posted at once waits on.
  void submit_now(Lock& lock, Link& link) {
    SubmitQueue& queue = link.queue;
    const auto transfer = queue.current = std::move(queue.waiting.front());
    queue.waiting.pop_front();
    const std::vector<uint64_t> source_bytes = regions_.sizes();
    lock.unlock();
    std::optional<PostedLanes> posted;
    // What it throws the link's thread meets again, and tells.
    guarded(link.call, "submit_now", [&] {
      transfer->moved = check_plan(transfer->plan, source_bytes, link.region_bytes);
      posted = shared_.driver->submit_now(link.peer_id, transfer->plan);
    });
    if (posted) transfer->plan = {};
    lock.lock();
    queue.current = nullptr;
    if (!posted) return queue.waiting.push_front(transfer);
    transfer->posted.push_back(posted->transfer);
    transfer->bytes = *transfer->moved;
    transfer->segments = posted->segments;
    transfer->submitting = false;
    shared_.poll_wakeup.notify();
  }

  // --- The link's thread: takes the lock by itself ---

  void run(Link& link) {
    const auto failure = guarded(
        link.call, "connect",
        [&] {
          link.peer_id = shared_.driver->connect(link.peer, link.deadline, link.cancelled);
          link.submits_now = shared_.driver->submits_now(link.peer_id);
        },
        kConnectFailed);
    Lock lock(shared_.mutex);
    if (failure) {
      refuse(link, *failure);
    } else {
      if (!link.answered && link.state == Link::kConnecting) {
        link.answered = true;
        link.state = Link::kOpen;
        shared_.outbox.done(link.connect_operation);
        submit_until_closed(lock, link);
      }
      lock.unlock();
      guarded(link.call, "disconnect", [&] { shared_.driver->disconnect(link.peer_id); });
      lock.lock();
    }
    for (const uint64_t operation : link.close_operations) shared_.outbox.done(operation);
    ended_.push_back(std::move(link.thread));
    links_.erase(link.id);
    shared_.control_wake.notify_all();
  }

  void submit_until_closed(Lock& lock, Link& link) {
    SubmitQueue& queue = link.queue;
    std::vector<Segment> batch;  // kept, so that its memory is used again
    for (;;) {
      queue.work.wait(lock, [&] {
        if (queue.current) return false;  // in the hands of who wrote it
        return !queue.waiting.empty() || (queue.closing && (queue.live == 0 || giving_up_));
      });
      if (queue.waiting.empty()) return;
      queue.current = std::move(queue.waiting.front());
      queue.waiting.pop_front();
      const auto transfer = queue.current;
      shared_.poll_wakeup.notify_if_asleep_at(transfer->deadline);
      lock.unlock();
      submit(link, *transfer, batch);
      transfer->plan = {};
      lock.lock();
      queue.current = nullptr;
      transfer->submitting = false;
      shared_.poll_wakeup.notify();
    }
  }

  void submit(Link& link, Transfer& transfer, std::vector<Segment>& batch) {
    std::vector<uint64_t> source_bytes;
    uint64_t max_segment_bytes = 0, most = 0;
    {
      const std::lock_guard lock(shared_.mutex);
      source_bytes = regions_.sizes();
      max_segment_bytes = shared_.capabilities.max_segment_bytes;
      most = shared_.capabilities.max_batch_segments;
    }
    if (most == 0) most = kDefaultBatch;
    try {
      if (!transfer.moved) {
        transfer.moved = check_plan(transfer.plan, source_bytes, link.region_bytes);
      }
    } catch (const PlanError& error) {
      const std::lock_guard lock(shared_.mutex);
      transfer.fail(
          {kPlanInvalid, std::string("The transfer plan is invalid: ") + error.what() + "."});
      return;
    }
    uint64_t segments = 0;
    batch.clear();
    // Calls the driver, unless the transfer was cancelled; `body` answers what it has posted.
    const auto call = [&](const char* name, auto body) {
      std::optional<TransferId> id;
      std::optional<Failure> failure;
      const bool cancelled = transfer.cancelled;
      if (!cancelled) failure = guarded(link.call, name, [&] { id = body(); });
      const std::lock_guard lock(shared_.mutex);
      if (cancelled || failure) {
        // Whoever cancelled is the cause, also of a call that gave up because of it.
        if (transfer.cancellation) transfer.fail(*transfer.cancellation);
        if (failure) transfer.fail(std::move(*failure));
        return false;
      }
      if (id) {
        transfer.posted.push_back(*id);
        shared_.poll_wakeup.notify();
      }
      return true;
    };
    const auto post = [&] {
      const bool posted = call("submit", [&] {
        return shared_.driver->submit(link.peer_id, batch, transfer.cancelled);
      });
      segments += batch.size();
      batch.clear();
      return posted;
    };
    const auto wait = [&]() -> std::optional<TransferId> {
      shared_.driver->wait_for(transfer.after, transfer.cancelled);
      return std::nullopt;
    };
    const auto post_lanes = [&]() -> std::optional<TransferId> {
      const auto lanes =
          shared_.driver->submit_lanes(link.peer_id, transfer.plan, transfer.cancelled);
      if (!lanes) return std::nullopt;
      segments += lanes->segments;
      return lanes->transfer;
    };
    bool going = transfer.after.kind == After::Kind::kNothing || call("wait_for", wait);
    going = going && call("submit_lanes", post_lanes);
    if (!going) return;
    expand_plan(transfer.plan, max_segment_bytes, [&](const Segment& segment) {
      batch.push_back(segment);
      if (batch.size() == most) going = post();
      return going;
    });
    if (going && !batch.empty()) post();
    const std::lock_guard lock(shared_.mutex);
    transfer.bytes = *transfer.moved;
    transfer.segments = segments;
  }

  Shared& shared_;
  Regions& regions_;
  Transfers& transfers_;
  std::unordered_map<uint64_t, std::shared_ptr<Link>> links_;
  uint64_t next_link_ = 1;
  std::vector<std::thread> ended_;  // of links that are gone: to be joined
  bool giving_up_ = false;
};

}  // namespace kvx::engine
