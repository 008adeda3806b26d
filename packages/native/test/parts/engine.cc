#include "kvx/engine.h"

#include <array>
#include <condition_variable>
#include <map>
#include <thread>

#include "check.h"
#include "driver.h"

using kvx::Engine;
using kvx::Event;

namespace {

constexpr std::chrono::milliseconds kLong{60'000};

// Collects the events of an engine.
struct Host {
  std::mutex mutex;
  std::condition_variable there;
  bool waiting = false;
  std::map<uint64_t, std::vector<Event>> events;
  std::shared_ptr<Engine> engine;

  explicit Host(kvx::DriverFactory factory) {
    Engine::Settings settings;
    settings.drain = settings.stuck = kLong;  // so that no machine is too slow for a test
    engine = Engine::make(
        std::move(factory), {}, "me",
        [this] {
          const std::lock_guard lock(mutex);
          waiting = true;
          there.notify_all();
        },
        settings);
  }

  Event wait_for(uint64_t operation) {
    for (;;) {
      {
        std::unique_lock lock(mutex);
        there.wait(lock, [this] { return waiting; });
        waiting = false;
      }
      collect();
      if (!events[operation].empty()) return events[operation].front();
    }
  }
  // A link that is open.
  uint64_t connect(uint64_t operation, const kvx::Bytes& descriptor) {
    const uint64_t link = engine->connect(operation, {"owner", {}, {descriptor}}, kLong);
    CHECK(wait_for(operation).kind == Event::Kind::kDone);
    return link;
  }
  void collect() {
    for (Event& event : engine->take_events()) {
      events[event.operation].push_back(std::move(event));
    }
  }
};

std::unique_ptr<kvx::Driver> make_driver(const kvx::Options&, const kvx::DriverContext& context) {
  return std::make_unique<parts::CopyDriver>(context);
}

constexpr auto kCopyEverything = [](int bytes) {
  kvx::Plan plan;
  plan.lanes = {0, 0, 0, 0, 1, 1, 1, 1, 1, 1};
  for (int i = 0; i < bytes; i++) {
    for (const int number : {i, bytes - 1 - i, 1}) plan.groups.push_back(number);
  }
  plan.blocks = {0, bytes, 0, 1};
  return plan;
};

}  // namespace

TEST("a write moves the bytes though the driver calls the engine from inside of every call") {
  std::array<uint8_t, 64> source{}, destination{};
  for (size_t i = 0; i < source.size(); i++) source[i] = static_cast<uint8_t>(i + 1);
  const auto memory = [](auto& bytes) {
    return kvx::Memory{reinterpret_cast<uint64_t>(bytes.data()), bytes.size(), {}, 0, -1};
  };
  Host host(make_driver);
  host.engine->open(1);
  CHECK(host.wait_for(1).kind == Event::Kind::kDone);
  host.engine->register_memory(2, memory(source));
  host.wait_for(2);
  host.engine->register_memory(3, memory(destination));
  const auto descriptor = host.wait_for(3).bytes;
  const uint64_t link = host.connect(4, descriptor);
  host.engine->write(5, link, kCopyEverything(64), kLong);
  CHECK(host.wait_for(5).kind == Event::Kind::kDone);
  for (size_t i = 0; i < source.size(); i++) CHECK(destination[source.size() - 1 - i] == source[i]);
  host.engine->fence(6, "owner");
  CHECK(host.wait_for(6).kind == Event::Kind::kDone);
  host.engine->close(7);
  CHECK(host.wait_for(7).kind == Event::Kind::kDone);
  host.engine->stop(std::chrono::milliseconds(0));
}

TEST("an engine that fails to open answers that once, and a close after it") {
  Host host([](const kvx::Options&, const kvx::DriverContext&) -> std::unique_ptr<kvx::Driver> {
    throw kvx::DriverError("ERR_KVX_BACKEND_UNAVAILABLE", "No such device.");
  });
  host.engine->open(1);
  CHECK(host.wait_for(1).message == "No such device.");
  host.engine->connect(2, {"owner", {}, {}}, kLong);
  CHECK(host.wait_for(2).code == "ERR_KVX_CLOSED");
  host.engine->close(3);
  CHECK(host.wait_for(3).kind == Event::Kind::kDone);
  host.engine->stop(std::chrono::milliseconds(0));
  CHECK(host.events[1].size() == 1 && host.events[3].size() == 1);
}

// For sanitizers above all.
TEST("threads that write, cancel, register, deregister and close at once get one answer to each") {
  std::array<uint8_t, 64> source{}, destination{};
  Host host(make_driver);
  Engine& engine = *host.engine;
  engine.open(1);
  host.wait_for(1);
  const kvx::Memory memory{reinterpret_cast<uint64_t>(source.data()), 64, {}, 0, -1};
  engine.register_memory(2, memory);
  host.wait_for(2);
  engine.register_memory(3, {reinterpret_cast<uint64_t>(destination.data()), 64, {}, 0, -1});
  const auto descriptor = host.wait_for(3).bytes;
  constexpr uint64_t kThreads = 4, kEach = 200;
  std::array<uint64_t, kThreads> links;
  for (uint64_t t = 0; t < kThreads; t++) links[t] = host.connect(10 + t, descriptor);
  std::atomic<uint64_t> begun{0};
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < kThreads; t++) {
    threads.emplace_back([&, t] {
      const uint64_t base = 1'000'000 * (t + 1);
      const uint64_t other = engine.connect(base, {"owner", {}, {descriptor}}, kLong);
      if (t == 2) engine.cancel_connect(base);
      for (uint64_t i = 1; i <= kEach; i++) {
        engine.write(base + i, links[t], kCopyEverything(64), kLong);
        if (i % 3 == 0) engine.cancel(base + i, "changed its mind");
        if (t == 0 && i == kEach / 2) engine.deregister_memory(4, 0);
        if (t == 1 && i % 10 == 0) engine.fence(base + kEach + i, "owner");
        if (t == 3) engine.register_memory(base + kEach + i, memory);
        begun++;
      }
      engine.close_link(base + 500'000, links[t]);
      engine.close_link(base + 600'000, other);
    });
  }
  threads.emplace_back([&] {
    while (begun < kThreads * kEach / 2) std::this_thread::yield();
    engine.close(5);
  });
  for (auto& thread : threads) thread.join();
  engine.stop(kLong);
  host.collect();
  CHECK(host.events[5].size() == 1 && host.events[4].size() == 1);
  for (uint64_t t = 0; t < kThreads; t++) {
    const uint64_t base = 1'000'000 * (t + 1);
    CHECK(host.events[base].size() == 1);
    CHECK(host.events[base + 500'000].size() == 1);
    CHECK(host.events[base + 600'000].size() == 1);
    for (uint64_t i = 1; i <= kEach; i++) {
      const auto& events = host.events[base + i];
      CHECK(events.size() == 2);
      CHECK(events[0].kind != Event::Kind::kSettled && events[1].kind == Event::Kind::kSettled);
      if (t == 3 || (t == 1 && i % 10 == 0)) CHECK(host.events[base + kEach + i].size() == 1);
    }
  }
}
