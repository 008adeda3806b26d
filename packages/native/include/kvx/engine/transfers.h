// The table of transfers: each is answered once, and settled once, when nothing more of it can
// land. Under the engine's lock.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "kvx/driver.h"
#include "kvx/engine/failure.h"
#include "kvx/engine/regions.h"
#include "kvx/engine/shared.h"
#include "kvx/plan.h"

namespace kvx::engine {

struct Transfer;

// The transfers of one link, which are submitted in order.
struct SubmitQueue {
  std::deque<std::shared_ptr<Transfer>> waiting;
  std::shared_ptr<Transfer> current;  // in the hands of the link thread, or of who wrote it
  size_t live = 0;                    // transfers that have not settled
  bool closing = false;               // the link thread ends when none is left
  std::condition_variable work;       // for the link thread
};

struct Transfer {
  Transfer(uint64_t operation, Plan plan, std::chrono::milliseconds timeout, After after = {})
      : operation(operation),
        after(after),
        plan(std::move(plan)),
        sources(regions_of(this->plan)),
        timeout(timeout),
        deadline(Clock::now() + timeout) {}

  const uint64_t operation;
  const After after;
  Plan plan;                      // of whoever has the transfer in hand, as the next
  std::optional<uint64_t> moved;  // what check_plan has answered
  std::vector<RegionId> sources;  // must stay registered
  const std::chrono::milliseconds timeout;
  const Clock::time_point deadline;
  std::shared_ptr<SubmitQueue> queue;
  std::atomic<bool> cancelled{false};

  bool answered = false;
  bool submitting = true;          // in the queue or in hand
  std::optional<Failure> failure;  // the first cause
  std::optional<Failure> cancellation;
  std::vector<TransferId> posted;  // on the way to the poll thread
  uint64_t bytes = 0, segments = 0;

  void fail(Failure cause) {
    if (!failure) failure = std::move(cause);
    cancelled = true;
  }

 private:
  static std::vector<RegionId> regions_of(const Plan& plan) {
    std::vector<RegionId> regions;
    for (size_t i = 0; i < plan.lanes.size(); i += kLaneWidth) {
      // Compared as they are, so that a number that is no region is left to check_plan.
      const double region = plan.lanes[i];
      if (!(region >= 0 && region < 4294967296.0)) continue;
      const auto id = static_cast<RegionId>(region);
      if (std::find(regions.begin(), regions.end(), id) == regions.end()) regions.push_back(id);
    }
    return regions;
  }
};

class Transfers {
 public:
  Transfers(Outbox& outbox, Wakeup& poll_wakeup, Regions& regions)
      : outbox_(outbox), poll_wakeup_(poll_wakeup), regions_(regions) {}

  // Fails and settles at once what reads from a region that is not registered.
  void add(const std::shared_ptr<Transfer>& transfer, std::shared_ptr<SubmitQueue> queue) {
    // A number that no region ever had is left to the plan check.
    std::erase_if(transfer->sources, [this](RegionId id) { return !regions_.known(id); });
    for (const RegionId id : transfer->sources) {
      if (regions_.registered(id)) continue;
      return refuse(transfer->operation,
                    {kPlanInvalid, "The transfer plan is invalid: source region " +
                                       std::to_string(id) + " is not registered."});
    }
    regions_.use(transfer->sources);
    queue->live++;
    transfers_[transfer->operation] = transfer;
    incoming_.push_back(transfer);
    // An idle link thread tells the poll thread when it takes the transfer. Waking both from here
    // would hold up the caller, who may be on the JavaScript thread. One that comes behind another
    // is not taken before that one has ended.
    if (queue->current || !queue->waiting.empty())
      poll_wakeup_.notify_if_asleep_at(transfer->deadline);
    queue->waiting.push_back(transfer);
    transfer->queue = std::move(queue);
  }

  // Answers and settles a transfer that never enters the table.
  void refuse(uint64_t operation, Failure failure) {
    outbox_.fail(operation, std::move(failure));
    outbox_.settled(operation);
  }

  // Appends what was added since the last time. For the poll thread.
  void take_incoming(std::vector<std::shared_ptr<Transfer>>& transfers) {
    std::move(incoming_.begin(), incoming_.end(), std::back_inserter(transfers));
    incoming_.clear();
  }
  bool has_incoming() const { return !incoming_.empty(); }

  // Stops what is not yet posted; the transfer fails with this unless everything was posted
  // already.
  void cancel(uint64_t operation, Failure why) {
    const auto found = transfers_.find(operation);
    if (found != transfers_.end()) cancel(*found->second, std::move(why));
  }
  void cancel(Transfer& transfer, Failure why) {
    if (!transfer.submitting) return;
    transfer.cancelled = true;
    auto& waiting = transfer.queue->waiting;
    const auto queued = std::find_if(waiting.begin(), waiting.end(),
                                     [&](const auto& other) { return other.get() == &transfer; });
    if (queued != waiting.end()) {
      // Nothing of it was posted: it ends here, however long its link is held up.
      waiting.erase(queued);
      transfer.submitting = false;
      transfer.fail(std::move(why));
      poll_wakeup_.notify();
    } else if (!transfer.cancellation) {
      transfer.cancellation = std::move(why);
    }
  }
  void cancel_all(SubmitQueue& queue, const Failure& why) {
    const auto waiting = queue.waiting;  // cancel() takes them out of the original
    for (const auto& transfer : waiting) cancel(*transfer, why);
    if (queue.current) cancel(*queue.current, why);
  }

  void answer(Transfer& transfer) {
    if (transfer.answered) return;
    transfer.answered = true;
    if (transfer.failure) {
      outbox_.fail(transfer.operation, *transfer.failure);
    } else {
      outbox_.done(transfer.operation, transfer.bytes, transfer.segments);
    }
  }

  // The table lets go of the transfer, so the caller holds it.
  void settle(Transfer& transfer) {
    answer(transfer);
    outbox_.settled(transfer.operation);
    regions_.give_back(transfer.sources);  // a deregistration may wait for it
    transfer.queue->live--;
    if (transfer.queue->closing) transfer.queue->work.notify_all();
    transfers_.erase(transfer.operation);
  }

  // Fails the transfer when it is past its deadline and not answered yet.
  void expire(Transfer& transfer, Clock::time_point now) {
    if (transfer.answered || now < transfer.deadline) return;
    const Failure failure{kTransferTimeout, "The transfer did not end within " +
                                                std::to_string(transfer.timeout.count()) + " ms."};
    cancel(transfer, failure);
    transfer.fail(failure);
    answer(transfer);
  }

  // Shutdown answers the transfers that are left, and settles them if nothing of them can land.
  void drop(const Failure& why, bool settled) {
    const auto left = transfers_;  // settle() takes them out of the original
    for (const auto& [operation, transfer] : left) {
      transfer->fail(why);
      answer(*transfer);
      if (settled) settle(*transfer);
    }
  }

 private:
  Outbox& outbox_;
  Wakeup& poll_wakeup_;
  Regions& regions_;
  std::unordered_map<uint64_t, std::shared_ptr<Transfer>> transfers_;
  std::vector<std::shared_ptr<Transfer>> incoming_;  // on the way to the poll thread
};

}  // namespace kvx::engine
