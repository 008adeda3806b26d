#include "kvx/engine/poller.h"

#include <vector>

#include "check.h"
#include "driver.h"

using namespace kvx::engine;
using kvx::Event;
using kvx::State;

namespace {

// A poll thread without link threads: the test posts.
struct World {
  Shared shared{[this] { news.notify_all(); }};
  std::condition_variable news;
  Regions regions{shared.outbox};
  Transfers transfers{shared.outbox, shared.poll_wakeup, regions};
  Links links{shared, regions, transfers};
  Poller poller{shared, transfers, links};
  std::shared_ptr<SubmitQueue> queue = std::make_shared<SubmitQueue>();
  parts::CopyDriver* driver;

  World() {
    auto made = std::make_unique<parts::CopyDriver>(
        kvx::DriverContext{"me", [this] { const std::lock_guard lock(shared.mutex); }, {}});
    driver = made.get();
    shared.driver = std::move(made);
  }
  ~World() {
    Lock lock(shared.mutex);
    poller.stop();
    shared.control_wake.wait(lock, [this] { return !poller.caller.running; });
    poller.caller.finish(lock);
  }

  // Everything of it was posted, as these.
  std::shared_ptr<Transfer> post(uint64_t operation, std::vector<kvx::TransferId> posted,
                                 std::chrono::milliseconds timeout = std::chrono::hours(1)) {
    const auto transfer = std::make_shared<Transfer>(operation, kvx::Plan{}, timeout);
    transfers.add(transfer, queue);
    queue->waiting.clear();
    transfer->submitting = false;
    transfer->posted = std::move(posted);
    shared.poll_wakeup.notify();
    return transfer;
  }
  std::vector<Event> take(Lock& lock, size_t count) {
    std::vector<Event> events;
    for (;;) {
      for (auto& event : shared.outbox.take()) events.push_back(std::move(event));
      if (events.size() >= count) return events;
      news.wait(lock);
    }
  }
};

}  // namespace

TEST("a transfer is done and settles when everything that was posted of it is done") {
  World world;
  std::atomic<bool> second{false};
  world.driver->state = [&](kvx::TransferId id, std::string&) {
    return id == 1 || second ? State::kDone : State::kPending;
  };
  Lock lock(world.shared.mutex);
  world.poller.start(nullptr);
  const auto transfer = world.post(7, {1, 2});
  transfer->bytes = 100;
  while (world.driver->releases == 0) {
    lock.unlock();
    std::this_thread::yield();
    lock.lock();
  }
  CHECK(world.shared.outbox.take().empty());
  second = true;
  const auto events = world.take(lock, 2);
  CHECK(events[0].kind == Event::Kind::kDone && events[0].first == 100);
  CHECK(events[1].kind == Event::Kind::kSettled);
  CHECK(world.queue->live == 0);
}

TEST("a failure is answered at once, and settles when the driver says that nothing can land") {
  World world;
  std::atomic<bool> over{false};
  world.driver->state = [&](kvx::TransferId, std::string& reason) {
    reason = "ERR_KVX_PEER_LOST: gone";
    return over ? State::kFailedSettled : State::kFailed;
  };
  Lock lock(world.shared.mutex);
  world.poller.start(nullptr);
  world.post(7, {1});
  auto events = world.take(lock, 1);
  CHECK(events.size() == 1 && events[0].code == "ERR_KVX_PEER_LOST");
  CHECK(world.queue->live == 1);
  over = true;
  events = world.take(lock, 1);
  CHECK(events.size() == 1 && events[0].kind == Event::Kind::kSettled);
}

TEST("a transfer whose driver stays silent is answered at its deadline, and is not settled") {
  World world;
  world.driver->state = [](kvx::TransferId, std::string&) { return State::kPending; };
  Lock lock(world.shared.mutex);
  world.poller.start(nullptr);
  world.post(7, {1}, std::chrono::milliseconds(1));
  const auto events = world.take(lock, 1);
  CHECK(events.size() == 1 && events[0].code == kTransferTimeout);
  CHECK(world.queue->live == 1);
}

TEST("a driver that wants to be looked at without a pause is asked all the time") {
  World world;
  // With pauses in between, which grow to milliseconds, this would take minutes.
  int left = 100'000;
  world.driver->state = [&](kvx::TransferId, std::string&) {
    return --left == 0 ? State::kDone : State::kPending;
  };
  world.driver->spin = std::chrono::hours(1);
  Lock lock(world.shared.mutex);
  world.poller.start(nullptr);
  world.post(7, {1});
  CHECK(world.take(lock, 2)[0].kind == Event::Kind::kDone);
}

TEST("a fence is answered by the driver or not at all once it was cancelled") {
  World world;
  Lock lock(world.shared.mutex);
  world.poller.fence(1, "somebody");
  world.poller.fence(2, "somebody");
  world.poller.cancel_fence(1);
  world.poller.start(nullptr);
  const auto events = world.take(lock, 1);
  CHECK(events.size() == 1 && events[0].operation == 2 && events[0].kind == Event::Kind::kDone);
  world.poller.fence(3, "somebody");
  world.poller.drop_fences({kClosed, "closed"});
  CHECK(world.take(lock, 1)[0].code == kClosed);
}
