#include "kvx/engine/shared.h"

#include <thread>

#include "check.h"

using namespace kvx::engine;
using kvx::Clock;

TEST("the bell wakes a sleeper for a time before it would wake, and not for a later one") {
  std::mutex mutex;
  Bell bell;
  bool asleep = false, woken = false;
  std::condition_variable changed;
  const auto until = Clock::now() + std::chrono::hours(1);
  std::thread sleeper([&] {
    Lock lock(mutex);
    asleep = true;
    changed.notify_all();
    while (!bell.take()) bell.sleep(lock, until);
    woken = true;
  });
  {
    Lock lock(mutex);
    changed.wait(lock, [&] { return asleep; });
    bell.ring_if_asleep_at(until + std::chrono::hours(1));
    CHECK(!bell.rung());
    bell.ring_if_asleep_at(until - std::chrono::minutes(1));
    CHECK(bell.rung());
  }
  sleeper.join();
  CHECK(woken);
  // Whoever is awake looks at the deadlines anyway.
  bell.ring_if_asleep_at(Clock::now());
  CHECK(!bell.rung());
}
