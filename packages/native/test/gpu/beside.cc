// Copies that go on beside whatever else the process does, as a library with C functions for
// tools/gpu/sections/model.py. One copy at a time; one thread calls. A function that answers a text
// could not do it: the text says why, and holds until the next call.
#include <cstdint>
#include <deque>
#include <mutex>
#include <thread>

#include "pools.h"

namespace {

class Beside {
 public:
  // 0 SMs: large pieces by the copy engine.
  Beside(const Pools& pools, const Ends& ends, uint64_t chunk, unsigned sms)
      : context_(pools.context()), ends_(ends), chunk_(chunk), sms_(sms), thread_([this] {
          try {
            sms_ == 0 ? by_engine() : by_kernel();
          } catch (const std::exception& error) {
            const std::lock_guard lock(mutex_);
            failure_ = error.what();
          }
        }) {}
  ~Beside() {
    stopping_ = true;
    thread_.join();
  }
  Beside(const Beside&) = delete;
  Beside& operator=(const Beside&) = delete;

  // Of all that has ended. Throws what has ended the copies.
  uint64_t copied() {
    const std::lock_guard lock(mutex_);
    if (!failure_.empty()) throw std::runtime_error(failure_);
    return copied_;
  }

 private:
  static constexpr uint64_t kRun = 16 << 10;
  static constexpr size_t kInFlight = 4;

  static void pause() { std::this_thread::sleep_for(std::chrono::microseconds(20)); }

  void by_kernel() {
    gpu::CopySms budget;
    budget.of.fill(sms_);
    gpu::Copier copier(context_, budget);
    const std::vector<gpu::Batch> chunks = scattered(ends_, chunk_, kRun);
    std::deque<gpu::Copier::Ticket> running;
    std::string reason;
    for (size_t next = 0; !stopping_;) {
      while (running.size() < kInFlight) {
        running.push_back(copier.submit(chunks[next++ % chunks.size()], {}, stopping_));
      }
      const State state = copier.poll(running.front(), reason);
      if (state == State::kPending) {
        pause();
        continue;
      }
      if (state != State::kDone) throw std::runtime_error(reason);
      copier.release(running.front());
      running.pop_front();
      copied_ += chunk_;
    }
    if (!copier.stop(std::chrono::seconds(10))) throw std::runtime_error("copies do not end");
  }

  void by_engine() {
    const gpu::Context::Current current(*context_);
    const gpu::Api& api = context_->api();
    const gpu::detail::Stream stream(*context_, "BESIDE");
    const uint64_t piece = ends_.bytes / 2;
    std::vector<gpu::detail::Event> events;
    for (int i = 0; i < 2; i++) events.emplace_back(*context_, "BESIDE");
    for (size_t round = 0; !stopping_; round++) {
      const auto& event = events[round % 2];
      if (round >= 2) {
        gpu::Result result;
        while ((result = api.event_query(event.get())) == gpu::kNotReady) pause();
        must(result);
        copied_ += piece;
      }
      const uint64_t at = round % 2 * piece;
      must(api.copy_async(ends_.to + at, ends_.from + at, piece, stream.get()));
      must(api.event_record(event.get(), stream.get()));
    }
    must(stream.wait([] { return false; }));
  }

  const std::shared_ptr<gpu::Context> context_;
  const Ends ends_;
  const uint64_t chunk_;
  const unsigned sms_;
  std::atomic<bool> stopping_{false};
  std::atomic<uint64_t> copied_{0};
  std::mutex mutex_;  // guards failure_
  std::string failure_;
  std::thread thread_;  // the last: it uses all of the above
};

struct Library {
  std::unique_ptr<Pools> pools;
  uint64_t chunk = 0;
  std::unique_ptr<Beside> running;
};
Library& library() {
  static Library& only =
      *new Library;  // never destroyed: the driver may end before this library does
  return only;
}

const char* said(const std::function<void()>& body) {
  static std::string failure;
  try {
    body();
    return nullptr;
  } catch (const std::exception& error) {
    failure = error.what();
    return failure.c_str();
  }
}

}  // namespace

#define BESIDE extern "C" __attribute__((visibility("default")))

// How many GPUs there are: a peer needs two.
BESIDE int beside_gpus() {
  return static_cast<int>(gpu::devices().list.size());
}

// Memory for every path, of so many bytes at each end, on the GPUs 0 and 1; chunks of `chunk`.
BESIDE const char* beside_open(uint64_t bytes, uint64_t chunk) {
  return said([&] {
    library().pools = std::make_unique<Pools>(bytes, bytes);
    library().chunk = chunk;
  });
}

// Begins to copy, and goes on until beside_stop. `path` is "same GPU", "peer", "to host" or
// "from host".
BESIDE const char* beside_start(const char* path, unsigned sms) {
  return said([&] {
    for (const Ends& ends : library().pools->paths()) {
      if (std::string(path) != ends.name) continue;
      library().running = std::make_unique<Beside>(*library().pools, ends, library().chunk, sms);
      return;
    }
    throw std::runtime_error(std::string("this machine has no path \"") + path + "\"");
  });
}

// Bytes copied since beside_start.
BESIDE const char* beside_copied(uint64_t* bytes) {
  return said([&] { *bytes = library().running->copied(); });
}

BESIDE const char* beside_stop() {
  return said([] { library().running.reset(); });
}
