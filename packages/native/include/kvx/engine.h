// A transfer engine around a Driver: queues, threads, deadlines, close. No JavaScript in it.
//
// Each concern has a file in engine/, from the bottom up: failure, outbox, shared (the lock and the
// driver), regions and transfers (tables, no threads), links, poller, driver_thread and shutdown
// (one thread each, links one per link). This one puts them together.
//
// The calls of this class never block (stop() excepted) and may come from any thread. Their
// outcomes come back as events that carry the operation number the caller chose: `notify` is
// called, on some thread and under the engine's lock, when the first event of a batch is there;
// take_events() fetches the whole batch.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "kvx/driver.h"
#include "kvx/engine/driver_thread.h"
#include "kvx/engine/failure.h"
#include "kvx/engine/links.h"
#include "kvx/engine/outbox.h"
#include "kvx/engine/poller.h"
#include "kvx/engine/regions.h"
#include "kvx/engine/shared.h"
#include "kvx/engine/shutdown.h"
#include "kvx/engine/transfers.h"
#include "kvx/plan.h"
#include "kvx/thread.h"

namespace kvx {

class Engine : public std::enable_shared_from_this<Engine> {
 public:
  using Settings = engine::Settings;

  static std::shared_ptr<Engine> make(DriverFactory factory, Options options, Generation generation,
                                      std::function<void()> notify, Settings settings) {
    return std::shared_ptr<Engine>(new Engine(std::move(factory), std::move(options),
                                              std::move(generation), std::move(notify), settings));
  }
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Makes the driver; call it once, before anything else.
  void open(uint64_t operation) {
    const std::lock_guard lock(shared_.mutex);
    opening_.operation = operation;
    try {
      // In this order: a control thread without a driver thread takes everything down again.
      shutdown_.start(shared_from_this());
      driver_thread_.start(shared_from_this());
    } catch (const NoThread& error) {
      shutdown_.fail_open({engine::kUnavailable, error.what()});
    }
  }

  // Known once open has succeeded.
  Capabilities capabilities() const {
    const std::lock_guard lock(shared_.mutex);
    return shared_.capabilities;
  }
  Bytes address() const {
    const std::lock_guard lock(shared_.mutex);
    return shared_.address;
  }

  std::vector<Event> take_events() {
    const std::lock_guard lock(shared_.mutex);
    return shared_.outbox.take();
  }

  void register_memory(uint64_t operation, const Memory& memory) {
    const std::lock_guard lock(shared_.mutex);
    if (shared_.closing) return shared_.outbox.fail(operation, engine::engine_closed());
    regions_.add(operation, memory);
  }

  // Waits, without holding others up, for every transfer that reads from the region to settle.
  void deregister_memory(uint64_t operation, RegionId id) {
    const std::lock_guard lock(shared_.mutex);
    // Everything is given back with the driver.
    if (shared_.closing) return shared_.outbox.done(operation);
    regions_.remove(operation, id);
  }

  // The number of the new link comes back at once; it can be used after the operation is done.
  uint64_t connect(uint64_t operation, PeerAddress peer, std::chrono::milliseconds timeout) {
    const std::lock_guard lock(shared_.mutex);
    return links_.connect(operation, std::move(peer), timeout, shared_from_this());
  }

  // Gives up a connect that is under way; it fails as aborted.
  void cancel_connect(uint64_t operation) {
    const std::lock_guard lock(shared_.mutex);
    links_.cancel_connect(operation);
  }

  void close_link(uint64_t operation, uint64_t link) {
    const std::lock_guard lock(shared_.mutex);
    links_.close(operation, link);
  }

  // Answers kDone or kFailed, by the deadline at the latest, and kSettled, which may take longer.
  void write(uint64_t operation, uint64_t link, Plan plan, std::chrono::milliseconds timeout,
             After after = {}) {
    const auto transfer =
        std::make_shared<engine::Transfer>(operation, std::move(plan), timeout, after);
    engine::Lock lock(shared_.mutex);
    links_.write(lock, transfer, link);
  }

  // Stops what is not yet posted; the transfer fails as aborted unless everything was posted
  // already.
  void cancel(uint64_t operation, std::string message) {
    const std::lock_guard lock(shared_.mutex);
    transfers_.cancel(operation, {engine::kAborted, std::move(message)});
  }

  void fence(uint64_t operation, Generation generation) {
    const std::lock_guard lock(shared_.mutex);
    if (shared_.closing) return shared_.outbox.fail(operation, engine::engine_closed());
    if (shared_.capabilities.fence == "engine") {
      return shared_.outbox.fail(
          operation,
          {engine::kInvalidState,
           "This engine cannot fence a single peer: closing it is the fence for everybody."});
    }
    poller_.fence(operation, std::move(generation));
  }
  void cancel_fence(uint64_t operation) {
    const std::lock_guard lock(shared_.mutex);
    poller_.cancel_fence(operation);
  }

  // Cancels, drains, destroys the driver. Idempotent; every operation is answered.
  void close(uint64_t operation) {
    const std::lock_guard lock(shared_.mutex);
    shutdown_.close(operation);
  }

  // Closes and waits, for callers that are about to go away. Bounded.
  void stop(std::chrono::milliseconds drain) {
    engine::Lock lock(shared_.mutex);
    shutdown_.wait(lock, drain);
  }

 private:
  Engine(DriverFactory factory, Options options, Generation generation,
         std::function<void()> notify, Settings settings)
      : shared_(std::move(notify)),
        driver_thread_(shared_, regions_, poller_, opening_, std::move(factory), std::move(options),
                       std::move(generation)),
        shutdown_(shared_, regions_, transfers_, links_, poller_, driver_thread_, opening_,
                  settings) {}

  mutable engine::Shared shared_;
  engine::Opening opening_;
  engine::Regions regions_{shared_.outbox};
  engine::Transfers transfers_{shared_.outbox, shared_.poll_wakeup, regions_};
  engine::Links links_{shared_, regions_, transfers_};
  engine::Poller poller_{shared_, transfers_, links_};
  engine::DriverThread driver_thread_;
  engine::Shutdown shutdown_;
};

}  // namespace kvx
