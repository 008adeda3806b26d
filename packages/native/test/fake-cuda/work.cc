// Streams, events, modules and launches: a thread per stream.
#include <array>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <optional>
#include <set>
#include <thread>
#include <vector>

#include "fake.h"

using namespace fake;

namespace {

// Never destroyed: threads of streams that a program has given up may still wait at its end.
std::mutex& mutex = *new std::mutex;  // of all streams and events
std::condition_variable& changed = *new std::condition_variable;

using Time = std::chrono::steady_clock::time_point;

struct Stream {
  int gpu = 0;
  Time due{};  // when the kernels that idle will have ended
  std::deque<std::function<Result()>> work;
  bool busy = false, ending = false;
  std::thread thread;

  void run() {
    std::unique_lock lock(mutex);
    for (;;) {
      changed.wait(lock, [this] { return ending || !work.empty(); });
      if (work.empty()) return;
      const auto next = std::move(work.front());
      work.pop_front();
      busy = true;
      lock.unlock();
      if (broken() == kOk) {
        if (const Result result = next(); result != kOk) break_contexts(result);
      }
      lock.lock();
      busy = false;
      changed.notify_all();
    }
  }
};

// The first two are what tests of @kvx/shm write to.
struct Event {
  uint64_t recorded = 0, reached = 0;
  Time due{};                   // not reached before
  std::set<uint64_t> beyond{};  // reached as well: on another stream, which was faster

  bool has_reached(uint64_t number) const { return number <= reached || beyond.contains(number); }
  void reach(uint64_t number) {
    beyond.insert(number);
    while (beyond.erase(reached + 1) > 0) reached++;
  }
};

Stream* of(StreamHandle handle) {
  return reinterpret_cast<Stream*>(handle);
}
Event* of(EventHandle handle) {
  return reinterpret_cast<Event*>(handle);
}

Result put(StreamHandle stream, std::function<Result()> work) {
  if (stream == nullptr) return kNotSupported;  // the default stream: kvx must not use it
  const std::lock_guard lock(mutex);
  of(stream)->work.push_back(std::move(work));
  changed.notify_all();
  return kOk;
}

std::set<std::string> names;

// What a kernel takes instead of doing anything, if that is wanted.
const std::optional<std::chrono::microseconds>& idle() {
  static const auto time = [] {
    const char* text = std::getenv("KVX_FAKE_CUDA_IDLE");
    return text == nullptr ? std::nullopt
                           : std::optional<std::chrono::microseconds>(std::atoi(text));
  }();
  return time;
}

}  // namespace

FAKE Result cuStreamCreate(StreamHandle* out, unsigned) {
  FAKE_CALL("cuStreamCreate");
  const auto stream = new Stream;
  stream->gpu = current_gpu();
  stream->thread = std::thread([stream] { stream->run(); });
  *out = reinterpret_cast<StreamHandle>(stream);
  return kOk;
}
FAKE Result cuStreamDestroy(StreamHandle handle) {
  FAKE_CALL("cuStreamDestroy");
  {
    const std::lock_guard lock(mutex);
    of(handle)->ending = true;
    changed.notify_all();
  }
  of(handle)->thread.join();
  delete of(handle);
  return kOk;
}
FAKE Result cuStreamQuery(StreamHandle handle) {
  FAKE_CALL("cuStreamQuery");
  const std::lock_guard lock(mutex);
  const bool idle = !of(handle)->busy && of(handle)->work.empty();
  if (broken() != kOk) return broken();
  return idle ? kOk : kNotReady;
}
FAKE Result cuStreamWaitEvent(StreamHandle stream, EventHandle event, unsigned) {
  FAKE_CALL("cuStreamWaitEvent");
  uint64_t wanted_number = 0;
  {
    const std::lock_guard lock(mutex);
    wanted_number = of(event)->recorded;
  }
  return put(stream, [event, wanted_number] {
    std::unique_lock lock(mutex);
    // A test that says that its event is reached wakes nobody.
    while (!of(event)->has_reached(wanted_number))
      changed.wait_for(lock, std::chrono::milliseconds(1));
    return kOk;
  });
}
FAKE Result cuEventCreate(EventHandle* out, unsigned) {
  FAKE_CALL("cuEventCreate");
  static auto& all = *new std::deque<Event>;  // a stream may reach one that was destroyed
  const std::lock_guard lock(mutex);
  *out = reinterpret_cast<EventHandle>(&all.emplace_back());
  return kOk;
}
FAKE Result cuEventDestroy(EventHandle event) {
  FAKE_CALL("cuEventDestroy");
  return event == nullptr ? kInvalid : kOk;
}
FAKE Result cuEventRecord(EventHandle event, StreamHandle stream) {
  FAKE_CALL("cuEventRecord");
  uint64_t number = 0;
  {
    const std::lock_guard lock(mutex);
    number = ++of(event)->recorded;
    of(event)->due = of(stream)->due;
    if (idle()) of(event)->reach(number);
  }
  if (idle()) return kOk;
  return put(stream, [event, number] {
    const std::lock_guard lock(mutex);
    of(event)->reach(number);
    changed.notify_all();
    return kOk;
  });
}
FAKE Result cuEventQuery(EventHandle event) {
  FAKE_CALL("cuEventQuery");
  if (wanted("event", 0) != 0) return kNotReady;
  const std::lock_guard lock(mutex);
  if (idle() && std::chrono::steady_clock::now() < of(event)->due) return kNotReady;
  return of(event)->has_reached(of(event)->recorded) ? kOk : kNotReady;
}

FAKE Result cuMemcpyAsync(Address to, Address from, size_t bytes, StreamHandle stream) {
  FAKE_CALL("cuMemcpyAsync");
  return put(stream, [=] {
    std::memcpy(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), bytes);
    return kOk;
  });
}
FAKE Result cuMemcpyBatchAsync(Address* to, Address* from, size_t* bytes, size_t count,
                               CopyAttributes* attributes, size_t* first, size_t kinds, size_t*,
                               StreamHandle stream) {
  FAKE_CALL("cuMemcpyBatchAsync");
  if (count == 0 || kinds != 1 || *first != 0 || attributes->order != 1) return kInvalid;
  std::vector<std::array<size_t, 3>> copies;
  for (size_t i = 0; i < count; i++) copies.push_back({to[i], from[i], bytes[i]});
  return put(stream, [copies = std::move(copies)] {
    for (const auto& [to, from, bytes] : copies) {
      std::memcpy(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), bytes);
    }
    return kOk;
  });
}
FAKE Result cuMemsetD8Async(Address to, unsigned char value, size_t bytes, StreamHandle stream) {
  FAKE_CALL("cuMemsetD8Async");
  return put(stream, [=] {
    std::memset(reinterpret_cast<void*>(to), value, bytes);
    return kOk;
  });
}

FAKE Result cuModuleLoadDataEx(ModuleHandle* out, const void* image, unsigned, int*, void**) {
  FAKE_CALL("cuModuleLoadDataEx");
  // PTX that drivers from 470 on take.
  constexpr Result kUnsupported = 222;
  const auto* text = static_cast<const char*>(image);
  if (std::strstr(text, "\n.version 7.4\n") == nullptr) return kUnsupported;
  *out = reinterpret_cast<ModuleHandle>(const_cast<char*>(text));
  return kOk;
}
FAKE Result cuModuleUnload(ModuleHandle) {
  FAKE_CALL("cuModuleUnload");
  return kOk;
}
FAKE Result cuModuleGetFunction(FunctionHandle* out, ModuleHandle module, const char* name) {
  FAKE_CALL("cuModuleGetFunction");
  const std::string entry = std::string(".entry ") + name + "(";
  if (std::strstr(reinterpret_cast<const char*>(module), entry.c_str()) == nullptr) {
    return kNotFound;
  }
  const std::lock_guard lock(mutex);
  const auto known = names.insert(name).first;
  *out = reinterpret_cast<FunctionHandle>(const_cast<std::string*>(&*known));
  return kOk;
}
FAKE Result cuLaunchKernel(FunctionHandle function, unsigned grid, unsigned, unsigned,
                           unsigned block, unsigned, unsigned, unsigned, StreamHandle stream,
                           void** parameters, void**) {
  FAKE_CALL("cuLaunchKernel");
  const auto& name = *reinterpret_cast<const std::string*>(function);
  if (idle()) {
    Time& due = of(stream)->due;
    due = std::max(due, std::chrono::steady_clock::now()) + *idle();
    return kOk;
  }
  auto body = kernel(name, of(stream)->gpu, grid, block, parameters);
  if (body == nullptr || grid == 0) return kInvalid;
  return put(stream, [body = std::move(body)] {
    if (const long result = wanted("kernel", 0); result != 0) return static_cast<Result>(result);
    return body();
  });
}
