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
  static kvx::Plan byte(int at) {
    return {{0, 0, 0, 0, 1, 1, 1, 1, 1, 1}, {at, at, 1}, {0, 1, 0, 1}};
  }
  std::shared_ptr<Transfer> write(Lock& lock, uint64_t operation, uint64_t link, kvx::Plan plan,
                                  kvx::After after = {}) {
    const auto transfer = std::make_shared<Transfer>(operation, std::move(plan), kLong, after);
    links.write(lock, transfer, link);
    lock.lock();
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
  for (int i = 0; i < 8; i++)
    written.push_back(world.write(lock, 10 + i, link, World::byte(7 - i)));
  for (const auto& transfer : written) world.wait_until_submitted(lock, *transfer);
  for (size_t i = 0; i < 8; i++) {
    CHECK(world.driver->submitted[i].source_offset == 7 - i);
    CHECK(written[i]->posted.size() == 1 && written[i]->bytes == 1);
  }
  CHECK(world.destination == world.source);
  world.links.close(2, link);
  world.write(lock, 20, link, World::byte(0));
  CHECK(world.wait_for(lock, 20).code == kClosed);
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
  const auto transfer = world.write(lock, 10, link, World::byte(0));
  world.wait_until_submitted(lock, *transfer);
  world.links.close_all({kClosed, "closed"});
  CHECK(!world.links.empty());
  world.links.give_up();
  world.join(lock);
  CHECK(world.driver->disconnects == 1);
}

TEST("a write that is alone is posted by who writes it, and one behind it by the link's thread") {
  World world;
  const auto me = std::this_thread::get_id();
  std::vector<std::thread::id> posters;
  world.driver->now = [&](const kvx::Plan&) {
    posters.push_back(std::this_thread::get_id());
    return kvx::PostedLanes{77, 3};
  };
  Lock lock(world.shared.mutex);
  const uint64_t link = world.connect(1);
  world.wait_for(lock, 1);
  const auto first = world.write(lock, 10, link, World::byte(0));
  CHECK(!first->submitting && first->posted == std::vector<kvx::TransferId>{77});
  CHECK(first->bytes == 1 && first->segments == 3);
  const auto second = world.write(lock, 11, link, World::byte(1));
  world.wait_until_submitted(lock, *second);
  CHECK(world.driver->submitted.size() == 1 && world.driver->submitted[0].source_offset == 1);
  world.transfers.settle(*first);
  world.transfers.settle(*second);
  const auto third = world.write(lock, 12, link, World::byte(2));
  CHECK(!third->submitting);
  CHECK(posters == std::vector({me, me}));
  world.transfers.settle(*third);
  world.links.close(2, link);
  world.join(lock);
}

TEST("what is long, must come after something or is wrong is never posted by who writes it") {
  World world;
  int asked = 0;
  world.driver->now = [&](const kvx::Plan&) {
    asked++;
    return std::nullopt;
  };
  Lock lock(world.shared.mutex);
  const uint64_t link = world.connect(1);
  world.wait_for(lock, 1);
  kvx::Plan longer = World::byte(3);
  for (int i = 0; i < 3000; i++) longer.groups.insert(longer.groups.end(), {0, 0, 0});
  const auto first = world.write(lock, 10, link, longer);
  world.wait_until_submitted(lock, *first);
  CHECK(first->posted.size() == 1);
  world.transfers.settle(*first);
  const auto second = world.write(lock, 11, link, World::byte(4), {kvx::After::Kind::kEvent, 1});
  world.wait_until_submitted(lock, *second);
  CHECK(second->failure);  // this driver cannot wait
  world.transfers.settle(*second);
  const auto third = world.write(lock, 12, link, World::byte(8));
  world.wait_until_submitted(lock, *third);
  CHECK(third->failure && third->failure->code == kPlanInvalid);
  world.transfers.settle(*third);
  CHECK(asked == 0);
  world.links.close(2, link);
  world.join(lock);
}

TEST("what the driver does not post at once goes the usual way, before what is written meanwhile") {
  for (const bool throws : {false, true}) {
    World world;
    uint64_t link = 0;
    std::vector<std::shared_ptr<Transfer>> written;
    world.driver->now = [&](const kvx::Plan&) -> std::optional<kvx::PostedLanes> {
      Lock lock(world.shared.mutex);
      for (int i = 0; i < 3; i++) {
        written.push_back(world.write(lock, 11 + i, link, World::byte(1 + i)));
      }
      if (throws) throw kvx::DriverError("ERR_KVX_TRANSFER_FAILED", "It cannot be launched.");
      return std::nullopt;
    };
    Lock lock(world.shared.mutex);
    link = world.connect(1);
    world.wait_for(lock, 1);
    const auto first = world.write(lock, 10, link, World::byte(0));
    written.insert(written.begin(), first);
    for (size_t i = 0; i < 4; i++) {
      world.wait_until_submitted(lock, *written[i]);
      CHECK(!written[i]->failure && written[i]->bytes == 1);
      CHECK(world.driver->submitted[i].source_offset == i);
    }
    for (const auto& transfer : written) world.transfers.settle(*transfer);
    world.links.close(2, link);
    world.join(lock);
  }
}

TEST("a cancel during a post at once stops what was not posted, and nothing that was") {
  for (const bool posts : {false, true}) {
    World world;
    world.driver->now = [&](const kvx::Plan&) {
      const Lock lock(world.shared.mutex);
      world.transfers.cancel(10, {kAborted, "aborted"});
      return posts ? std::optional(kvx::PostedLanes{77, 1}) : std::nullopt;
    };
    Lock lock(world.shared.mutex);
    const uint64_t link = world.connect(1);
    world.wait_for(lock, 1);
    const auto transfer = world.write(lock, 10, link, World::byte(0));
    world.wait_until_submitted(lock, *transfer);
    CHECK(world.driver->submitted.empty());
    CHECK(posts ? !transfer->failure : transfer->failure->code == kAborted);
    CHECK(transfer->posted.size() == (posts ? 1 : 0));
    world.transfers.settle(*transfer);
    world.links.close(2, link);
    world.join(lock);
  }
}

TEST("a link that is closed and given up during a post at once disconnects after it") {
  World world;
  int disconnects = -1;
  world.driver->now = [&](const kvx::Plan&) {
    {
      const Lock lock(world.shared.mutex);
      world.links.close_all({kClosed, "closed"});
      world.links.give_up();
    }
    // The link's thread has been told: it would have gone by now.
    for (int i = 0; i < 2000; i++) std::this_thread::yield();
    disconnects = world.driver->disconnects;
    return kvx::PostedLanes{77, 1};
  };
  Lock lock(world.shared.mutex);
  const uint64_t link = world.connect(1);
  world.wait_for(lock, 1);
  world.write(lock, 10, link, World::byte(0));
  CHECK(disconnects == 0);
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
