#include "kvx/engine/regions.h"

#include <array>

#include "check.h"

using namespace kvx::engine;
using kvx::Event;
using kvx::Memory;
using kvx::RegionId;

namespace {

Memory memory_of(uint64_t bytes) {
  Memory memory;
  memory.bytes = bytes;
  return memory;
}

struct World {
  Outbox outbox{[] {}};
  Regions regions{outbox};

  // Does what can be done now; how many tasks that was.
  int work() {
    int count = 0;
    while (const auto task = regions.take()) {
      regions.finish(*task, std::nullopt, {});
      count++;
    }
    return count;
  }
};

}  // namespace

TEST("a deregistration waits for the last transfer that reads, and a registration does not wait") {
  World world;
  world.regions.add(1, memory_of(100));
  CHECK(world.work() == 1);
  const std::array<RegionId, 1> ids{0};
  world.regions.use(ids);
  world.regions.use(ids);
  world.regions.remove(2, 0);
  world.regions.add(3, memory_of(200));
  CHECK(world.work() == 1);
  CHECK(world.regions.registered(1));
  world.regions.give_back(ids);
  CHECK(world.work() == 0);
  // What still reads is checked against the region's size.
  CHECK((world.regions.sizes() == std::vector<uint64_t>{100, 200}));
  world.regions.give_back(ids);
  CHECK(world.work() == 1);
  CHECK((world.regions.sizes() == std::vector<uint64_t>{0, 200}));
  const auto events = world.outbox.take();
  CHECK(events.size() == 3);
  CHECK(events[0].operation == 1 && events[1].operation == 3 && events[2].operation == 2);
}

TEST("a region cannot be deregistered twice, nor before it is registered") {
  World world;
  world.regions.remove(1, 0);
  world.regions.add(2, memory_of(100));
  world.regions.remove(3, 0);
  CHECK(world.work() == 1);
  world.regions.remove(4, 0);
  world.regions.remove(5, 0);
  CHECK(world.work() == 1);
  for (const Event& event : world.outbox.take()) {
    const bool refused = event.operation == 1 || event.operation == 3 || event.operation == 5;
    CHECK((event.kind == Event::Kind::kFailed) == refused);
  }
}

TEST("a registration that fails leaves a number that is never used again") {
  World world;
  world.regions.add(1, memory_of(100));
  const auto task = world.regions.take();
  world.regions.finish(*task, Failure{"ERR_KVX_MEMORY", "full"}, {});
  CHECK(!world.regions.registered(0) && world.regions.known(0));
  world.regions.add(2, memory_of(200));
  world.work();
  const auto events = world.outbox.take();
  CHECK(events.size() == 2);
  CHECK(events[0].code == "ERR_KVX_MEMORY" && events[1].first == 1);
}

TEST("at the end every task is answered once, also the one that the driver comes back from later") {
  World world;
  world.regions.add(1, memory_of(100));
  world.work();
  world.outbox.take();
  world.regions.add(2, memory_of(100));
  const auto stuck = world.regions.take();
  world.regions.add(3, memory_of(100));
  world.regions.remove(4, 0);
  const Failure why{kClosed, "closed"};
  world.regions.drop_tasks(why);
  world.regions.drop_running(why);
  world.regions.finish(*stuck, std::nullopt, {});
  const auto events = world.outbox.take();
  CHECK(events.size() == 3);
  CHECK(events[0].operation == 3 && events[0].code == kClosed);
  CHECK(events[1].operation == 4 && events[1].kind == Event::Kind::kDone);
  CHECK(events[2].operation == 2 && events[2].code == kClosed);
}
