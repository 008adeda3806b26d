#include "kvx/engine/shared.h"

#include <thread>

#include "check.h"

using namespace kvx::engine;
using kvx::Clock;

TEST("a sleeper is woken for a deadline before it would wake, and not for a later one") {
  std::mutex mutex;
  Wakeup poll_wakeup;
  bool asleep = false, woken = false;
  std::condition_variable changed;
  const auto until = Clock::now() + std::chrono::hours(1);
  std::thread sleeper([&] {
    Lock lock(mutex);
    asleep = true;
    changed.notify_all();
    while (!poll_wakeup.take()) poll_wakeup.sleep(lock, until);
    woken = true;
  });
  {
    Lock lock(mutex);
    changed.wait(lock, [&] { return asleep; });
    poll_wakeup.notify_if_asleep_at(until + std::chrono::hours(1));
    CHECK(!poll_wakeup.notified());
    poll_wakeup.notify_if_asleep_at(until - std::chrono::minutes(1));
    CHECK(poll_wakeup.notified());
  }
  sleeper.join();
  CHECK(woken);
  // Whoever is awake looks at the deadlines anyway.
  poll_wakeup.notify_if_asleep_at(Clock::now());
  CHECK(!poll_wakeup.notified());
}
