// The poll thread: it watches what was posted, all deadlines, and fences.
#pragma once

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
    worker.thread = start_thread("kvx-poll", [this, engine = std::move(engine)] { run(); });
    worker.running = true;
  }
  void stop() {
    stopping_ = true;
    shared_.bell.ring();
  }

  void fence(uint64_t operation, Generation generation) {
    fences_[operation] = std::move(generation);
    shared_.bell.ring();
  }
  void cancel_fence(uint64_t operation) { fences_.erase(operation); }
  void drop_fences(const Failure& why) {
    for (const auto& [operation, generation] : std::exchange(fences_, {})) {
      shared_.outbox.fail(operation, why);
    }
  }

  Worker worker;

 private:
  // A poll round after news spins this long before it sleeps, ...
  static constexpr std::chrono::microseconds kSpin{50};
  // ... and then sleeps in steps that double from the first to the longest.
  static constexpr std::chrono::microseconds kFirstSleep{50};
  static constexpr std::chrono::microseconds kLongestSleep{1000};
  static constexpr std::chrono::microseconds kLongestFenceSleep{20000};
  // What was answered and has not settled is asked in steps that grow to this one, however much
  // else is going on: a driver may go on answering `failed` for as long as the engine lives.
  static constexpr std::chrono::microseconds kLongestGraveSleep{20000};

  // What the thread knows of a transfer, for itself.
  struct Active {
    explicit Active(std::shared_ptr<Transfer> transfer) : transfer(std::move(transfer)) {}

    std::shared_ptr<Transfer> transfer;
    std::vector<TransferId> polling;
    bool buried = false;  // answered, and some of it has not settled
    Clock::duration grave_sleep = kFirstSleep;
    Clock::time_point grave_wake = Clock::time_point::min();
  };

  void run() {
    std::vector<std::shared_ptr<Transfer>> incoming;
    std::vector<Active> active;
    std::vector<std::pair<uint64_t, Generation>> fences;
    std::vector<std::pair<Transfer*, Failure>> failures;
    std::vector<uint64_t> fenced;
    auto last_news = Clock::now();
    auto sleep = kFirstSleep;
    Lock lock(shared_.mutex);
    while (!stopping_) {
      if (shared_.bell.take()) {
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
        if (each.buried && Clock::now() < each.grave_wake) continue;
        news |= std::erase_if(each.polling,
                              [&](TransferId id) { return poll(each, id, failures); }) > 0;
        if (each.polling.empty()) continue;
        pending |= !each.buried;
        if (!each.buried) continue;
        each.grave_wake = Clock::now() + each.grave_sleep;
        each.grave_sleep = std::min<Clock::duration>(each.grave_sleep * 2, kLongestGraveSleep);
      }
      for (const auto& [operation, generation] : fences) {
        guarded(worker.call, "fenced", [&] {
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
      for (Active& each : active) {
        Transfer& transfer = *each.transfer;
        transfers_.expire(transfer, now);
        if (!transfer.answered) next = std::min(next, transfer.deadline);
        each.buried = transfer.answered;
        if (each.buried && !each.polling.empty()) {
          next = std::min(next, std::max(now, each.grave_wake));
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
      }
      if (stopping_ || shared_.bell.rung() || transfers_.has_incoming()) continue;
      if (pending && now - last_news < kSpin) {
        lock.unlock();
        std::this_thread::yield();
        lock.lock();
        continue;
      }
      auto wake = next;
      if (pending || !fences_.empty()) {
        wake = std::min(next, now + sleep);
        sleep = std::min(sleep * 2, pending ? kLongestSleep : kLongestFenceSleep);
      }
      shared_.bell.sleep(lock, wake);
    }
    worker.running = false;
    shared_.control_wake.notify_all();
  }

  // True when nothing more can come of it. Not under the lock.
  bool poll(const Active& active, TransferId id,
            std::vector<std::pair<Transfer*, Failure>>& failures) {
    std::string reason;
    State state = State::kPending;
    const auto thrown =
        guarded(worker.call, "poll", [&] { state = shared_.driver->poll(id, reason); });
    if (thrown) {
      state = State::kFailed;  // nothing is known, so nothing is said to have settled
      reason = thrown->code + ": " + thrown->message;
    }
    if (state == State::kPending) return false;
    if (state != State::kDone && !active.buried) {
      failures.emplace_back(active.transfer.get(), failure_of(std::move(reason)));
    }
    if (state == State::kFailed) return false;
    guarded(worker.call, "release", [&] { shared_.driver->release(id); });
    return true;
  }

  Shared& shared_;
  Transfers& transfers_;
  Links& links_;
  std::map<uint64_t, Generation> fences_;
  bool stopping_ = false;
};

}  // namespace kvx::engine
