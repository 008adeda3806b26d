#include "kvx/engine/links.h"

#include <array>
#include <set>

#include "check.h"
#include "driver.h"

using namespace kvx::engine;
using kvx::Event;

namespace {

constexpr std::chrono::hours kLong{1};

// Links without a poll thread and without a control thread: the test does what these would.
struct World {
  Shared shared{[this] { news.notify_all(); }};
  std::condition_variable news;
  Regions regions{shared.outbox};
  Transfers transfers{shared.outbox, shared.poll_wakeup, regions};
  Links links{shared, regions, transfers};
  parts::CopyDriver* driver;
  std::vector<Event> events;
  std::array<uint8_t, 8> source{1, 2, 3, 4, 5, 6, 7, 8}, destination{};

  World() {
    auto made = std::make_unique<parts::CopyDriver>(
        kvx::DriverContext{"me", [this] { const std::lock_guard lock(shared.mutex); }, {}});
    driver = made.get();
    shared.driver = std::move(made);
    shared.capabilities = driver->capabilities();
    const kvx::Memory memory{reinterpret_cast<uint64_t>(source.data()), source.size(), {}, 0, -1};
    regions.add(0, memory);
    const auto task = regions.take();
    kvx::Bytes descriptor;
    driver->register_memory(0, memory, descriptor);
    regions.finish(*task, std::nullopt, descriptor);
    shared.outbox.take();
  }

  kvx::PeerAddress peer() const {
    const std::array<uint64_t, 2> region{destination.size(),
                                         reinterpret_cast<uint64_t>(destination.data())};
    const auto* bytes = reinterpret_cast<const uint8_t*>(region.data());
    return {"owner", {}, {kvx::Bytes(bytes, bytes + sizeof region)}};
  }
  uint64_t connect(uint64_t operation) { return links.connect(operation, peer(), kLong, nullptr); }
  // Copies one byte, `at` of each side.
  std::shared_ptr<Transfer> write(uint64_t operation, uint64_t link, int at) {
    kvx::Plan plan{{0, 0, 0, 0, 1, 1, 1, 1, 1, 1}, {at, at, 1}, {0, 1, 0, 1}};
    const auto transfer = std::make_shared<Transfer>(operation, std::move(plan), kLong);
    const auto queue = links.queue_of(link);
    CHECK(queue);
    transfers.add(transfer, queue);
    queue->work.notify_one();
    return transfer;
  }
  Event wait_for(Lock& lock, uint64_t operation) {
    for (;;) {
      for (auto& event : shared.outbox.take()) events.push_back(std::move(event));
      for (const Event& event : events) {
        if (event.operation == operation) return event;
      }
      news.wait(lock);
    }
  }
  void wait_until_submitted(Lock& lock, const Transfer& transfer) {
    while (transfer.submitting) {
      lock.unlock();
      std::this_thread::yield();
      lock.lock();
    }
  }
  void join(Lock& lock) {
    shared.control_wake.wait(lock, [this] { return links.empty(); });
    links.join_ended(lock);
  }
};

}  // namespace

TEST("a link submits in the order in which it was written to, and disconnects when it is closed") {
  World world;
  Lock lock(world.shared.mutex);
  const uint64_t link = world.connect(1);
  CHECK(world.wait_for(lock, 1).kind == Event::Kind::kDone);
  std::vector<std::shared_ptr<Transfer>> written;
  for (int i = 0; i < 8; i++) written.push_back(world.write(10 + i, link, 7 - i));
  for (const auto& transfer : written) world.wait_until_submitted(lock, *transfer);
  for (size_t i = 0; i < 8; i++) {
    CHECK(world.driver->submitted[i].source_offset == 7 - i);
    CHECK(written[i]->posted.size() == 1 && written[i]->bytes == 1);
  }
  CHECK(world.destination == world.source);
  world.links.close(2, link);
  CHECK(!world.links.queue_of(link));
  CHECK(world.driver->disconnects == 0);  // they have not settled
  for (const auto& transfer : written) world.transfers.settle(*transfer);
  CHECK(world.wait_for(lock, 2).kind == Event::Kind::kDone);
  world.join(lock);
  CHECK(world.driver->disconnects == 1);
}

TEST("a link that is given up disconnects though a transfer of it never settles") {
  World world;
  Lock lock(world.shared.mutex);
  const uint64_t link = world.connect(1);
  world.wait_for(lock, 1);
  const auto transfer = world.write(10, link, 0);
  world.wait_until_submitted(lock, *transfer);
  world.links.close_all({kClosed, "closed"});
  CHECK(!world.links.empty());
  world.links.give_up();
  world.join(lock);
  CHECK(world.driver->disconnects == 1);
}

TEST("a descriptor too short to name its size fails the connect, and leaves no link") {
  World world;
  Lock lock(world.shared.mutex);
  world.links.connect(1, {"owner", {}, {{1, 2, 3}}}, kLong, nullptr);
  CHECK(world.wait_for(lock, 1).code == kConnectFailed);
  CHECK(world.links.empty());
}

TEST("a connect that the driver is silent about is refused after its deadline, once") {
  World world;
  Lock lock(world.shared.mutex);
  world.connect(1);  // its thread waits for the lock
  const auto next = world.links.expire(kvx::Clock::now());
  CHECK(next < kvx::Clock::time_point::max());
  CHECK(world.links.expire(next) == kvx::Clock::time_point::max());
  world.links.cancel_connect(1);
  world.join(lock);
  const auto events = world.shared.outbox.take();
  CHECK(events.size() == 1 && events[0].code == kConnectFailed);
}
