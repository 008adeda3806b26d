#include "kvx/engine/transfers.h"

#include "check.h"

using namespace kvx::engine;
using kvx::Clock;
using kvx::Event;
using kvx::Plan;

namespace {

constexpr std::chrono::hours kLong{1};

Plan plan_from(const std::vector<double>& regions) {
  Plan plan;
  for (const double region : regions) {
    plan.lanes.push_back(region);
    plan.lanes.resize(plan.lanes.size() + kvx::kLaneWidth - 1);
  }
  return plan;
}

struct World {
  Outbox outbox{[] {}};
  Wakeup poll_wakeup;
  Regions regions{outbox};
  Transfers transfers{outbox, poll_wakeup, regions};
  std::shared_ptr<SubmitQueue> queue = std::make_shared<SubmitQueue>();

  explicit World(int count = 1) {
    for (int i = 0; i < count; i++) regions.add(0, {});
    while (const auto task = regions.take()) regions.finish(*task, std::nullopt, {});
    outbox.take();
  }
  ~World() {
    // What a queue still holds holds the queue.
    queue->waiting.clear();
    queue->current = nullptr;
  }

  std::shared_ptr<Transfer> add(uint64_t operation, const std::vector<double>& from = {0}) {
    const auto transfer = std::make_shared<Transfer>(operation, plan_from(from), kLong);
    transfers.add(transfer, queue);
    return transfer;
  }
  // What a link's thread does.
  void begin() {
    queue->current = queue->waiting.front();
    queue->waiting.pop_front();
  }
};

}  // namespace

TEST("a transfer that waits is cancelled at once, and one that is being submitted is told") {
  World world;
  const auto first = world.add(1), second = world.add(2);
  world.begin();
  world.transfers.cancel_all(*world.queue, {kClosed, "closed"});
  CHECK(world.queue->waiting.empty());
  CHECK(second->cancelled && !second->submitting && second->failure);
  CHECK(first->cancelled && first->submitting && !first->failure && first->cancellation);
  CHECK(world.poll_wakeup.take());
  CHECK(world.outbox.take().empty());  // the poll thread answers
}

TEST("a cancel after everything was submitted changes nothing") {
  World world;
  const auto transfer = world.add(1);
  world.begin();
  transfer->submitting = false;
  world.transfers.cancel(1, {kAborted, "aborted"});
  CHECK(!transfer->cancelled && !transfer->cancellation);
}

TEST("a transfer is answered once, with its first failure, and settled after it was answered") {
  World world;
  const auto transfer = world.add(1);
  transfer->fail({"ERR_KVX_PEER_LOST", "first"});
  transfer->fail({kClosed, "second"});
  world.transfers.answer(*transfer);
  world.transfers.answer(*transfer);
  world.transfers.settle(*transfer);
  world.transfers.drop({kClosed, "closed"}, true);
  const auto events = world.outbox.take();
  CHECK(events.size() == 2);
  CHECK(events[0].kind == Event::Kind::kFailed && events[0].code == "ERR_KVX_PEER_LOST");
  CHECK(events[1].kind == Event::Kind::kSettled);
  CHECK(world.queue->live == 0);
}

TEST("a transfer past its deadline is answered, and its regions are still in use") {
  World world;
  const auto transfer = world.add(1);
  world.transfers.expire(*transfer, transfer->deadline - std::chrono::seconds(1));
  CHECK(world.outbox.take().empty());
  world.transfers.expire(*transfer, transfer->deadline);
  world.transfers.expire(*transfer, transfer->deadline);
  const auto events = world.outbox.take();
  CHECK(events.size() == 1 && events[0].code == kTransferTimeout);
  world.regions.remove(2, 0);
  CHECK(!world.regions.take());
  world.transfers.settle(*transfer);
  CHECK(world.regions.take());
}

TEST("a transfer that names an unregistered region uses none of its others") {
  World world(2);
  world.regions.remove(7, 1);
  world.add(1, {0, 1});
  const auto events = world.outbox.take();
  CHECK(events.size() == 2);
  CHECK(events[0].code == kPlanInvalid && events[1].kind == Event::Kind::kSettled);
  CHECK(world.queue->live == 0 && world.queue->waiting.empty());
  world.regions.remove(8, 0);
  CHECK(world.regions.take()->operation == 7);
  CHECK(world.regions.take()->operation == 8);
}

TEST("numbers that no region ever had are left to the plan check") {
  World world;
  const auto transfer = world.add(1, {0, 5, -1, 1e300, 0.0 / 0.0, 0});
  CHECK(transfer->sources == std::vector<kvx::RegionId>{0});
  CHECK(world.outbox.take().empty());
}

TEST("what is dropped at the end is answered, and settled only when nothing of it can land") {
  World world;
  const auto transfer = world.add(1);
  world.transfers.drop({kClosed, "closed"}, false);
  auto events = world.outbox.take();
  CHECK(events.size() == 1 && events[0].code == kClosed);
  world.transfers.drop({kClosed, "closed"}, true);
  events = world.outbox.take();
  CHECK(events.size() == 1 && events[0].kind == Event::Kind::kSettled);
}
