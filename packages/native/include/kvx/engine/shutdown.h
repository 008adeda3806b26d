// The control thread: it watches over the others and takes everything down. It never calls the
// driver, so opening and closing end in time whatever the driver does.
#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "kvx/driver.h"
#include "kvx/engine/driver_thread.h"
#include "kvx/engine/failure.h"
#include "kvx/engine/links.h"
#include "kvx/engine/poller.h"
#include "kvx/engine/regions.h"
#include "kvx/engine/shared.h"
#include "kvx/engine/transfers.h"
#include "kvx/thread.h"

namespace kvx::engine {

struct Settings {
  // How long opening waits for the driver to be made.
  std::chrono::milliseconds open{120000};
  // How long close waits for what was posted before it destroys the driver.
  std::chrono::milliseconds drain{2000};
  // How long close then waits for the calls of the links, of the poll thread and of the driver
  // thread to return, for each kind. A driver that stays in a call is abandoned.
  std::chrono::milliseconds stuck{10000};
};

class Shutdown {
 public:
  Shutdown(Shared& shared, Regions& regions, Transfers& transfers, Links& links, Poller& poller,
           DriverThread& driver_thread, Opening& opening, Settings settings)
      : shared_(shared),
        regions_(regions),
        transfers_(transfers),
        links_(links),
        poller_(poller),
        driver_thread_(driver_thread),
        opening_(opening),
        settings_(settings) {}

  // The threads hold the engine: all have ended, but perhaps the one that runs this, which may be
  // the control thread and cannot join itself.
  ~Shutdown() {
    if (thread_.joinable()) thread_.detach();
  }

  // --- Under the lock ---

  // The thread holds `engine`. Throws NoThread.
  void start(std::shared_ptr<void> engine) {
    thread_ = start_thread("kvx-control", [this, engine = std::move(engine)] { run(); });
  }

  // A thread of the engine could not be started.
  void fail_open(Failure failure) {
    opening_.failure = std::move(failure);
    begin();
    // Without a control thread this one ends it; there is nothing to take down.
    if (!thread_.joinable()) end();
  }

  // Idempotent; every operation is answered.
  void close(uint64_t operation) {
    if (closed_) return answer(operation);
    operations_.push_back(operation);
    begin();
  }

  // Closes and waits. Bounded.
  void wait(Lock& lock, std::chrono::milliseconds drain) {
    settings_.drain = std::min(settings_.drain, drain);
    begin();
    const bool ended =
        closed_wake_.wait_for(lock, settings_.drain + 3 * settings_.stuck + std::chrono::seconds(1),
                              [this] { return closed_; });
    lock.unlock();
    if (!thread_.joinable()) return;
    if (ended) {
      thread_.join();
    } else {
      thread_.detach();
    }
  }

 private:
  void begin() {
    shared_.closing = true;
    shared_.control_wake.notify_all();
  }

  // --- The thread: takes the lock by itself ---

  void run() {
    Lock lock(shared_.mutex);
    const auto opened_by = Clock::now() + settings_.open;
    while (!shared_.closing) {
      if (links_.join_ended(lock)) continue;
      if (!opening_.operation) {
        shared_.control_wake.wait(lock);
      } else if (shared_.control_wake.wait_until(lock, opened_by) == std::cv_status::timeout &&
                 opening_.operation && !shared_.closing) {
        opening_.failure =
            Failure{kUnavailable, "The engine did not start within " +
                                      std::to_string(settings_.open.count()) + " ms."};
        shared_.closing = true;
      }
    }
    take_down(lock);
    end();
  }

  void take_down(Lock& lock) {
    const Failure why{kClosed, "The engine was closed."};
    regions_.drop_tasks(why);
    poller_.drop_fences(why);
    links_.close_all(why);
    const auto unlinked = [this] { return links_.empty(); };
    // Connects that are under way get as long as a stuck call, and notice that they are cancelled.
    shared_.control_wake.wait_for(lock, settings_.drain, unlinked);
    links_.give_up();
    shared_.control_wake.wait_for(lock, settings_.stuck, unlinked);
    poller_.stop();
    shared_.control_wake.wait_for(lock, settings_.stuck,
                                  [this] { return !poller_.caller.running; });
    // Rule 6 of driver.h: what a link or the poll thread may still use is not destroyed.
    const bool unused = links_.empty() && !poller_.caller.running;
    driver_thread_.end(unused);
    shared_.control_wake.wait_for(lock, settings_.stuck,
                                  [this] { return !driver_thread_.caller.running; });
    if (!unused || driver_thread_.caller.running) {
      stuck_ = "the driver did not return from " + stuck_calls() +
               ", so it was left as it is. Its memory stays registered.";
    }
    links_.leave(why);
    links_.join_ended(lock);
    poller_.caller.finish(lock);
    driver_thread_.caller.finish(lock);
    regions_.drop_running(why);
    transfers_.drop(why, may_still_land().empty() && driver_thread_.unsettled_reason.empty());
  }

  // The last thing: everything is answered.
  void end() {
    closed_ = true;
    if (const auto operation = std::exchange(opening_.operation, std::nullopt)) {
      shared_.outbox.fail(*operation, opening_.failure.value_or(Failure{
                                          kClosed, "The engine was closed while it was opened."}));
    }
    for (const uint64_t operation : operations_) answer(operation);
    closed_wake_.notify_all();
  }

  void answer(uint64_t operation) {
    if (!may_still_land().empty()) {
      shared_.outbox.fail(
          operation,
          {kInvalidState, "The engine was closed, but bytes of its transfers may still land: " +
                              may_still_land()});
    } else if (!driver_thread_.unsettled_reason.empty()) {
      shared_.outbox.fail(
          operation, {kUnsettled, "The engine was closed, but bytes that it sent may still land: " +
                                      driver_thread_.unsettled_reason});
    } else {
      shared_.outbox.done(operation);
    }
  }

  const std::string& may_still_land() const {
    return stuck_.empty() ? driver_thread_.abandon_reason : stuck_;
  }

  std::string stuck_calls() const {
    std::vector<std::string> calls;
    links_.add_calls(calls);
    for (const CallingThread* caller : {&poller_.caller, &driver_thread_.caller}) {
      if (const char* name = caller->call) calls.emplace_back(name);
    }
    if (calls.empty()) return "a call";
    std::string text;
    for (const std::string& call : calls) text += (text.empty() ? "" : ", ") + call;
    return text;
  }

  Shared& shared_;
  Regions& regions_;
  Transfers& transfers_;
  Links& links_;
  Poller& poller_;
  DriverThread& driver_thread_;
  Opening& opening_;
  Settings settings_;
  std::condition_variable closed_wake_;
  std::vector<uint64_t> operations_;
  std::string stuck_;  // why the driver was left as it is
  bool closed_ = false;
  std::thread thread_;
};

}  // namespace kvx::engine
