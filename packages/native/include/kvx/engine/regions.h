// The table of memory: what is registered, how many transfers read from it, and what the driver
// thread is to register or deregister next. Under the engine's lock.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "kvx/driver.h"
#include "kvx/engine/failure.h"
#include "kvx/engine/outbox.h"

namespace kvx::engine {

class Regions {
 public:
  struct Task {
    uint64_t operation;
    RegionId region;
    std::optional<Memory> memory;  // absent: deregister
  };

  explicit Regions(Outbox& outbox) : outbox_(outbox) {}

  void add(uint64_t operation, const Memory& memory) {
    const auto id = static_cast<RegionId>(regions_.size());
    regions_.push_back({});
    tasks_.push_back({operation, id, memory});
    work.notify_all();
  }

  // Waits, without holding others up, for every transfer that reads from the region to settle.
  void remove(uint64_t operation, RegionId id) {
    if (!registered(id)) {
      return outbox_.fail(operation, {kInvalidState, "The region is not registered."});
    }
    regions_[id].registered = false;
    tasks_.push_back({operation, id, std::nullopt});
    work.notify_all();
  }

  bool known(RegionId id) const { return id < regions_.size(); }
  bool registered(RegionId id) const { return known(id) && regions_[id].registered; }

  // By region, to check plans against. A region that waits to be deregistered keeps its size, for
  // the transfers that still read from it; 0 before and after.
  std::vector<uint64_t> sizes() const {
    std::vector<uint64_t> sizes;
    for (const Region& region : regions_) sizes.push_back(region.bytes);
    return sizes;
  }

  // For a transfer: the regions it reads from stay registered until it gives them back.
  void use(std::span<const RegionId> ids) {
    for (const RegionId id : ids) regions_[id].users++;
  }
  void give_back(std::span<const RegionId> ids) {
    for (const RegionId id : ids) regions_[id].users--;
    if (!tasks_.empty()) work.notify_all();
  }

  // The next task that can be done now. It must be finished before the next is taken.
  std::optional<Task> take() {
    const auto ready = std::find_if(tasks_.begin(), tasks_.end(), [this](const Task& task) {
      return task.memory || regions_[task.region].users == 0;
    });
    if (ready == tasks_.end()) return std::nullopt;
    Task task = std::move(*ready);
    tasks_.erase(ready);
    running_ = task.operation;
    if (!task.memory) regions_[task.region].bytes = 0;
    return task;
  }

  void finish(const Task& task, std::optional<Failure> failure, Bytes descriptor) {
    // drop_running has answered it already.
    if (!std::exchange(running_, std::nullopt)) return;
    if (failure) return outbox_.fail(task.operation, std::move(*failure));
    if (task.memory) {
      regions_[task.region].registered = true;
      regions_[task.region].bytes = task.memory->bytes;
    }
    outbox_.done(task.operation, task.region, 0, std::move(descriptor));
  }

  // Shutdown answers the tasks that were not begun. Destroying the driver deregisters everything.
  void drop_tasks(const Failure& why) {
    for (const Task& task : std::exchange(tasks_, {})) {
      if (task.memory) {
        outbox_.fail(task.operation, why);
      } else {
        outbox_.done(task.operation);
      }
    }
  }
  // Shutdown answers the task whose driver call does not return.
  void drop_running(const Failure& why) {
    if (const auto operation = std::exchange(running_, std::nullopt)) {
      outbox_.fail(*operation, why);
    }
  }

  std::condition_variable work;  // for the driver thread: there may be a task

 private:
  struct Region {
    bool registered = false;
    uint64_t bytes = 0;
    size_t users = 0;
  };

  Outbox& outbox_;
  std::vector<Region> regions_;
  std::deque<Task> tasks_;
  std::optional<uint64_t> running_;  // the operation of the task that was taken
};

}  // namespace kvx::engine
