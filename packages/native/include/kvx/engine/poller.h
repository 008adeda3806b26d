// The poll thread: it watches what was posted, all deadlines, and fences.
#pragma once

#include <sys/prctl.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "kvx/driver.h"
#include "kvx/engine/failure.h"
#include "kvx/engine/links.h"
#include "kvx/engine/shared.h"
#include "kvx/engine/transfers.h"
#include "kvx/thread.h"

namespace kvx::engine {

class Poller {
 public:
  Poller(Shared& shared, Transfers& transfers, Links& links)
      : shared_(shared), transfers_(transfers), links_(links) {}

  // --- Under the lock ---

  // The thread holds `engine`. Throws NoThread.
  void start(std::shared_ptr<void> engine) {
    caller.thread = start_thread("kvx-poll", [this, engine = std::move(engine)] { run(); });
    caller.running = true;
  }
  void stop() {
    stopping_ = true;
    shared_.poll_wakeup.notify();
  }

  void fence(uint64_t operation, Generation generation) {
    fences_[operation] = std::move(generation);
    shared_.poll_wakeup.notify();
  }
  void cancel_fence(uint64_t operation) { fences_.erase(operation); }
  void drop_fences(const Failure& why) {
    for (const auto& [operation, generation] : std::exchange(fences_, {})) {
      shared_.outbox.fail(operation, why);
    }
  }

  CallingThread caller;

 private:
  // Linux lets this thread oversleep by so much at most; by 50 us otherwise.
  static constexpr std::chrono::nanoseconds kTimerSlack{1000};
  // After news this thread spins for as long as the driver says, and then sleeps in steps that
  // double from the first to the longest: the driver's while transfers are pending.
  static constexpr std::chrono::microseconds kFirstSleep{50};
  // When nothing is left it stays awake for so long, provided that the last transfer came as soon
  // after the one before: waking it is a good part of what a brief transfer takes.
  static constexpr std::chrono::microseconds kLinger{100};
  static constexpr std::chrono::microseconds kLongestFenceSleep{20000};
  // A transfer that was answered and has not settled is polled at intervals that grow to this one,
  // however much else is going on: a driver may answer kFailed for as long as the engine lives.
  static constexpr std::chrono::microseconds kLongestBackoff{20000};

  // A transfer as the poll thread sees it; only this thread touches it, without the lock.
  struct Active {
    explicit Active(std::shared_ptr<Transfer> transfer) : transfer(std::move(transfer)) {}

    std::shared_ptr<Transfer> transfer;
    std::vector<TransferId> polling;
    bool answered = false;  // as of the last round
    // Of an answered transfer of which something has not settled:
    Clock::duration backoff = kFirstSleep;
    Clock::time_point next_poll = Clock::time_point::min();
  };

  void run() {
    prctl(PR_SET_TIMERSLACK, kTimerSlack.count());
    std::vector<std::shared_ptr<Transfer>> incoming;
    std::vector<Active> active;
    std::vector<std::pair<uint64_t, Generation>> fences;
    std::vector<std::pair<Transfer*, Failure>> failures;
    std::vector<uint64_t> fenced;
    auto last_news = Clock::now(), idle_since = last_news;
    bool lingers = false;
    Clock::duration sleep = kFirstSleep;
    Lock lock(shared_.mutex);
    while (!stopping_) {
      if (active.empty() && transfers_.has_incoming()) {
        lingers = Clock::now() - idle_since < kLinger;
      }
      if (shared_.poll_wakeup.take()) {
        last_news = Clock::now();
        sleep = kFirstSleep;
      }
      transfers_.take_incoming(incoming);
      for (auto& transfer : incoming) active.emplace_back(std::move(transfer));
      incoming.clear();
      for (Active& each : active) {
        auto& posted = each.transfer->posted;
        each.polling.insert(each.polling.end(), posted.begin(), posted.end());
        posted.clear();
      }
      fences.assign(fences_.begin(), fences_.end());
      lock.unlock();
      bool news = false, pending = false;
      for (Active& each : active) {
        if (each.answered && Clock::now() < each.next_poll) continue;
        news |= std::erase_if(each.polling,
                              [&](TransferId id) { return poll(each, id, failures); }) > 0;
        if (each.polling.empty()) continue;
        pending |= !each.answered;
        if (!each.answered) continue;
        each.next_poll = Clock::now() + each.backoff;
        each.backoff = std::min<Clock::duration>(each.backoff * 2, kLongestBackoff);
      }
      for (const auto& [operation, generation] : fences) {
        guarded(caller.call, "fenced", [&] {
          if (shared_.driver->fenced(generation)) fenced.push_back(operation);
        });
      }
      lock.lock();
      for (auto& [transfer, failure] : failures) {
        transfer->fail(std::move(failure));
        transfers_.answer(*transfer);
      }
      for (const uint64_t operation : fenced) {
        if (fences_.erase(operation) > 0) shared_.outbox.done(operation);
      }
      news |= !failures.empty() || !fenced.empty();
      failures.clear();
      fenced.clear();
      const auto now = Clock::now();
      auto next = links_.expire(now);
      bool coming = false;  // a link is about to post
      for (Active& each : active) {
        Transfer& transfer = *each.transfer;
        transfers_.expire(transfer, now);
        if (!transfer.answered) next = std::min(next, transfer.deadline);
        each.answered = transfer.answered;
        coming |= transfer.queue->current == each.transfer;
        if (each.answered && !each.polling.empty()) {
          next = std::min(next, std::max(now, each.next_poll));
        }
      }
      news |= std::erase_if(active, [&](const Active& each) {
                const bool settled = !each.transfer->submitting && each.polling.empty() &&
                                     each.transfer->posted.empty();
                if (settled) transfers_.settle(*each.transfer);
                return settled;
              }) > 0;
      if (news) {
        last_news = now;
        sleep = kFirstSleep;
        if (active.empty()) idle_since = now;
      }
      if (stopping_ || shared_.poll_wakeup.notified() || transfers_.has_incoming()) continue;
      const bool spins = pending || coming
                             ? now - last_news < shared_.driver->longest_spin()
                             : lingers && active.empty() && now - idle_since < kLinger;
      if (spins) {
        lock.unlock();
        std::this_thread::yield();
        lock.lock();
        continue;
      }
      auto wake = next;
      if (pending || !fences_.empty()) {
        if (pending) sleep = std::min<Clock::duration>(sleep, shared_.driver->longest_pause());
        wake = std::min(next, now + sleep);
        sleep = std::min<Clock::duration>(sleep * 2, kLongestFenceSleep);
      }
      shared_.poll_wakeup.sleep(lock, wake);
    }
    caller.running = false;
    shared_.control_wake.notify_all();
  }

  // True when nothing more can come of it. Not under the lock.
  bool poll(const Active& active, TransferId id,
            std::vector<std::pair<Transfer*, Failure>>& failures) {
    std::string reason;
    State state = State::kPending;
    const auto thrown =
        guarded(caller.call, "poll", [&] { state = shared_.driver->poll(id, reason); });
    if (thrown) {
      state = State::kFailed;  // nothing is known, so nothing is said to have settled
      reason = thrown->code + ": " + thrown->message;
    }
    if (state == State::kPending) return false;
    if (state != State::kDone && !active.answered) {
      failures.emplace_back(active.transfer.get(), failure_of(std::move(reason)));
    }
    if (state == State::kFailed) return false;
    guarded(caller.call, "release", [&] { shared_.driver->release(id); });
    return true;
  }

  Shared& shared_;
  Transfers& transfers_;
  Links& links_;
  std::map<uint64_t, Generation> fences_;
  bool stopping_ = false;
};

}  // namespace kvx::engine
