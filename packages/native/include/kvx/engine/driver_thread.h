// The driver thread: makes the driver, registers and deregisters, and destroys the driver.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "kvx/driver.h"
#include "kvx/engine/failure.h"
#include "kvx/engine/poller.h"
#include "kvx/engine/regions.h"
#include "kvx/engine/shared.h"
#include "kvx/thread.h"

namespace kvx {

using DriverFactory = std::function<std::unique_ptr<Driver>(const Options&, const DriverContext&)>;

namespace engine {

// The open operation until it is answered, and why it fails.
struct Opening {
  std::optional<uint64_t> operation;
  std::optional<Failure> failure;
};

class DriverThread {
 public:
  DriverThread(Shared& shared, Regions& regions, Poller& poller, Opening& opening,
               DriverFactory factory, Options options, Generation generation)
      : shared_(shared),
        regions_(regions),
        poller_(poller),
        opening_(opening),
        factory_(std::move(factory)),
        options_(std::move(options)),
        generation_(std::move(generation)) {}

  // --- Under the lock ---

  // The thread holds `engine`. Throws NoThread.
  void start(std::shared_ptr<void> engine) {
    caller.thread = start_thread("kvx-driver", [this, engine = std::move(engine)] { run(engine); });
    caller.running = true;
  }

  // Ends the thread. `destroy`: the driver with it, which must be false while a link or the poll
  // thread is in a driver call (rule 6 of driver.h).
  void end(bool destroy) {
    order_ = destroy ? Order::kDestroy : Order::kLeave;
    regions_.work.notify_all();
  }

  CallingThread caller;
  // What the driver said of itself before it was destroyed; empty while it is not.
  std::string abandon_reason, unsettled_reason;

 private:
  // --- The thread: takes the lock by itself ---

  void run(const std::shared_ptr<void>& engine) {
    std::unique_ptr<Driver> driver;
    std::optional<Capabilities> capabilities;
    Bytes address;
    auto failure = guarded(
        caller.call, "open",
        [&] {
          // Holds the engine, so that the threads of a driver that had to be abandoned can still
          // call it.
          const auto wake = [this, engine] {
            const std::lock_guard lock(shared_.mutex);
            shared_.poll_wakeup.notify();
          };
          const auto peer_gone = [this, engine](const Generation& peer, const std::string& reason) {
            const std::lock_guard lock(shared_.mutex);
            if (!shared_.closing) shared_.outbox.peer_gone(peer, reason);
          };
          driver = factory_(options_, {generation_, wake, peer_gone});
          if (!driver) throw DriverError(kInternal, "The factory made no driver.");
          capabilities = driver->capabilities();
          address = driver->address();
        },
        kUnavailable);
    factory_ = nullptr;
    Lock lock(shared_.mutex);
    if (!failure && !shared_.closing) {
      try {
        poller_.start(engine);
      } catch (const NoThread& error) {
        failure = Failure{kUnavailable, error.what()};
      }
    }
    if (failure || shared_.closing) {
      // No other thread has seen the driver.
      lock.unlock();
      guarded(caller.call, "close", [&] { driver.reset(); });
      lock.lock();
      if (!opening_.failure) opening_.failure = std::move(failure);
      shared_.closing = true;
    } else {
      shared_.driver = std::move(driver);
      shared_.capabilities = *capabilities;
      shared_.address = std::move(address);
      shared_.outbox.done(*std::exchange(opening_.operation, std::nullopt));
      shared_.control_wake.notify_all();
      while (order_ == Order::kWork) {
        if (!run_task(lock)) regions_.work.wait(lock);
      }
      if (order_ == Order::kDestroy) destroy(lock);
    }
    caller.running = false;
    shared_.control_wake.notify_all();
  }

  bool run_task(Lock& lock) {
    const auto task = regions_.take();
    if (!task) return false;
    lock.unlock();
    Bytes descriptor;
    auto failure =
        guarded(caller.call, task->memory ? "register_memory" : "deregister_memory", [&] {
          if (task->memory) {
            shared_.driver->register_memory(task->region, *task->memory, descriptor);
          } else {
            shared_.driver->deregister_memory(task->region);
          }
        });
    if (task->memory && !failure) {
      // What plan checks on the writer's side need goes in front of what the driver needs.
      const auto* size = reinterpret_cast<const uint8_t*>(&task->memory->bytes);
      descriptor.insert(descriptor.begin(), size, size + sizeof task->memory->bytes);
    }
    lock.lock();
    regions_.finish(*task, std::move(failure), std::move(descriptor));
    return true;
  }

  void destroy(Lock& lock) {
    auto driver = std::move(shared_.driver);
    lock.unlock();
    std::string abandon, unsettled;
    guarded(caller.call, "close", [&] {
      driver->stop();
      abandon = driver->abandon_reason();
      unsettled = driver->unsettled_reason();
      driver.reset();
    });
    lock.lock();
    abandon_reason = std::move(abandon);
    unsettled_reason = std::move(unsettled);
  }

  enum class Order { kWork, kDestroy, kLeave };

  Shared& shared_;
  Regions& regions_;
  Poller& poller_;
  Opening& opening_;
  DriverFactory factory_;
  const Options options_;
  const Generation generation_;
  Order order_ = Order::kWork;
};

}  // namespace engine

}  // namespace kvx
