// A driver that misbehaves on demand, and watches whether the engine keeps its own thread rules.
// Options, all optional:
//   open       throw | alien | slow             (alien: not a DriverError; slow: 300 ms)
//   connect    refuse | silent                  (silent: until cancelled)
//   submit     throw | block | stuck            (block: until cancelled; stuck: until unstick())
//   stuckIn    open | register_memory | deregister_memory | connect | disconnect | poll | fenced |
//              close: a call that does not return before unstick()
//   submitFor  generation of the only peer that `submit` applies to
//   poll       pending | fail | failLater | throw | slowly
//              (fail: at once and settled; failLater: failed, settled after finish(); slowly: done
//              after finish())
//   reason     what a failed poll says
//   after      throw | wait                     (wait: until finish() or cancelled)
//   lanes      how many lanes of the first block submit_lanes takes
//   batch      max_batch_segments
//   abandon    what abandon_reason says
//   unsettled  what unsettled_reason says
//   fence      peer | engine
#include <sys/resource.h>

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "kvx/addon.h"

namespace {

using kvx::DriverError;
using kvx::State;

std::recursive_mutex world;
// For good: a call that never returns may still wait for it when the process ends.
auto& changed = *new std::condition_variable_any;
std::vector<std::string> broken;  // rules of driver.h that the engine broke
std::set<std::string> gone;       // generations that fenced() may call gone
bool finished = false, unstuck = false;
kvx::After last_after;  // of the last wait
int drivers = 0, submits = 0, blocked = 0, polls = 0;
std::thread::id javascript;

void violate(const std::string& rule) {
  const std::lock_guard lock(world);
  broken.push_back(rule);
}

// Complains when two calls that must not overlap do.
class Alone {
 public:
  Alone(std::atomic<int>& inside, const char* rule) : inside_(inside) {
    if (inside_++ != 0) violate(rule);
    if (std::this_thread::get_id() == javascript) violate("on the JavaScript thread");
  }
  ~Alone() { inside_--; }

 private:
  std::atomic<int>& inside_;
};

class Faulty : public kvx::Driver {
 public:
  Faulty(const kvx::Options& options, const kvx::DriverContext& context)
      : options_(options), context_(context) {
    const std::string open = options.text("open");
    stay("open");
    if (open == "slow") std::this_thread::sleep_for(std::chrono::milliseconds(300));
    if (open == "throw") throw DriverError("ERR_KVX_BACKEND_UNAVAILABLE", "No such device.");
    if (open == "alien") throw std::runtime_error("something else");
    capabilities_.memory_kinds = {"cpu"};
    if (options.text("device") != "") capabilities_.memory_kinds.push_back(options.text("device"));
    capabilities_.fence = options.text("fence", "peer");
    capabilities_.max_batch_segments = static_cast<uint64_t>(options.number("batch", 0));
    capabilities_.after = options.text("after") != "";
    capabilities_.version = "0";
    const std::lock_guard lock(world);
    drivers++;
  }
  ~Faulty() override {
    stay("close");
    const std::lock_guard lock(world);
    drivers--;
    if (calls_ != 0) broken.push_back("6: destroyed during a call");
  }

  const kvx::Capabilities& capabilities() const override { return capabilities_; }
  kvx::Bytes address() const override { return {1, 2, 3}; }

  void register_memory(kvx::RegionId id, const kvx::Memory& memory,
                       kvx::Bytes& descriptor) override {
    const Alone alone(registering_, "1: two registrations at once");
    stay("register_memory");
    if (id != regions_.size()) violate("region ids are not in order");
    regions_.push_back(memory);
    descriptor.resize(sizeof memory.address);
    std::memcpy(descriptor.data(), &memory.address, sizeof memory.address);
  }
  void deregister_memory(kvx::RegionId) override {
    const Alone alone(registering_, "1: two registrations at once");
    stay("deregister_memory");
    const std::lock_guard lock(world);
    if (!live_.empty()) broken.push_back("5: deregistered while a transfer was live");
  }

  kvx::PeerId connect(const kvx::PeerAddress& peer, kvx::Clock::time_point,
                      const std::atomic<bool>& cancelled) override {
    if (options_.text("connect") == "refuse") {
      throw DriverError("ERR_KVX_CONNECT_FAILED", "The peer said no.");
    }
    stay("connect");
    std::unique_lock lock(world);
    if (options_.text("connect") == "silent") {
      while (!cancelled) changed.wait_for(lock, std::chrono::milliseconds(1));
      throw DriverError("ERR_KVX_CONNECT_FAILED", "It was cancelled.");
    }
    Peer& made = peers_[++last_];
    made.generation = peer.generation;
    for (const kvx::Bytes& region : peer.regions) {
      uint64_t address = 0;
      std::memcpy(&address, region.data(), sizeof address);
      made.regions.push_back(reinterpret_cast<uint8_t*>(address));
    }
    return last_;
  }
  void disconnect(kvx::PeerId peer) override {
    stay("disconnect");
    const std::lock_guard lock(world);
    if (peers_.at(peer).submitting) broken.push_back("5: disconnected during a submit");
    peers_.erase(peer);
  }

  bool fenced(const kvx::Generation& generation) override {
    const Alone alone(polling_, "4: two polls at once");
    stay("fenced");
    const std::lock_guard lock(world);
    return gone.contains(generation);
  }

  void wait_for(const kvx::After& after, const std::atomic<bool>& cancelled) override {
    std::unique_lock lock(world);
    last_after = after;
    if (options_.text("after") == "throw") {
      throw DriverError("ERR_KVX_TRANSFER_FAILED", "There is no such event.");
    }
    while (!finished && !cancelled) changed.wait_for(lock, std::chrono::milliseconds(1));
    if (!finished) throw DriverError("ERR_KVX_ABORTED", "The wait was cancelled.");
  }

  std::optional<kvx::PostedLanes> submit_lanes(kvx::PeerId id, kvx::Plan& plan,
                                               const std::atomic<bool>& cancelled) override {
    const auto count = static_cast<int32_t>(options_.number("lanes", 0));
    if (count == 0) return std::nullopt;
    kvx::Plan mine = plan;
    mine.blocks = {plan.blocks[0], plan.blocks[1], plan.blocks[2], plan.blocks[2] + count};
    plan.blocks[2] += count;
    std::vector<kvx::Segment> segments;
    kvx::expand_plan(mine, 0, [&](const kvx::Segment& segment) {
      segments.push_back(segment);
      return true;
    });
    return kvx::PostedLanes{submit(id, segments, cancelled), segments.size()};
  }

  kvx::TransferId submit(kvx::PeerId id, std::span<const kvx::Segment> segments,
                         const std::atomic<bool>& cancelled) override {
    std::unique_lock lock(world);
    Peer& peer = peers_.at(id);
    const Alone alone(peer.submitting, "3: two submits of one peer at once");
    calls_++;
    submits++;
    changed.notify_all();
    const std::string only = options_.text("submitFor");
    const std::string mode = only.empty() || only == peer.generation ? options_.text("submit") : "";
    if (mode == "block" || mode == "stuck") {
      blocked++;
      while (mode == "block" ? !cancelled : !unstuck) {
        changed.wait_for(lock, std::chrono::milliseconds(1));
      }
      blocked--;
    }
    calls_--;
    if (mode != "") throw DriverError("ERR_KVX_TRANSFER_FAILED", "The queue is gone.");
    for (const kvx::Segment& segment : segments) {
      std::memcpy(peer.regions[segment.destination_region] + segment.destination_offset,
                  reinterpret_cast<const uint8_t*>(regions_[segment.source_region].address) +
                      segment.source_offset,
                  segment.bytes);
    }
    live_.insert(++last_);
    return last_;
  }

  State poll(kvx::TransferId transfer, std::string& reason) override {
    const Alone alone(polling_, "4: two polls at once");
    stay("poll");
    const std::lock_guard lock(world);
    polls++;
    if (!live_.contains(transfer)) broken.push_back("polled after its release");
    const std::string mode = options_.text("poll");
    reason = options_.text("reason", "The wire is cut.");
    if (mode == "throw") throw DriverError("ERR_KVX_TRANSFER_FAILED", "The status is unreadable.");
    if (mode == "pending") return State::kPending;
    if (mode == "fail") return State::kFailedSettled;
    if (mode == "failLater") return finished ? State::kFailedSettled : State::kFailed;
    if (mode == "slowly") return finished ? State::kDone : State::kPending;
    return State::kDone;
  }
  void release(kvx::TransferId transfer) override {
    const Alone alone(polling_, "4: two polls at once");
    const std::lock_guard lock(world);
    if (live_.erase(transfer) == 0) broken.push_back("released twice");
  }

  std::string abandon_reason() const override { return options_.text("abandon"); }
  std::string unsettled_reason() const override { return options_.text("unsettled"); }

 private:
  void stay(const char* call) {
    if (options_.text("stuckIn") != call) return;
    std::unique_lock lock(world);
    blocked++;
    while (!unstuck) changed.wait_for(lock, std::chrono::milliseconds(1));
    blocked--;
  }

  struct Peer {
    kvx::Generation generation;
    std::vector<uint8_t*> regions;
    std::atomic<int> submitting{0};
  };
  const kvx::Options options_;
  const kvx::DriverContext context_;
  kvx::Capabilities capabilities_;
  std::vector<kvx::Memory> regions_;
  std::map<kvx::PeerId, Peer> peers_;
  std::set<kvx::TransferId> live_;
  std::atomic<int> registering_{0}, polling_{0};
  int calls_ = 0;
  uint32_t last_ = 0;
};

Napi::Value world_now(const Napi::CallbackInfo& info) {
  const std::lock_guard lock(world);
  auto list = Napi::Array::New(info.Env());
  for (uint32_t i = 0; i < broken.size(); i++) list.Set(i, broken[i]);
  auto result = Napi::Object::New(info.Env());
  result.Set("broken", list);
  result.Set("drivers", drivers);
  result.Set("submits", submits);
  result.Set("blocked", blocked);
  result.Set("polls", polls);
  return result;
}

Napi::Value last_wait(const Napi::CallbackInfo& info) {
  const std::lock_guard lock(world);
  auto result = Napi::Object::New(info.Env());
  result.Set("kind", static_cast<int>(last_after.kind));
  result.Set("handle", Napi::BigInt::New(info.Env(), last_after.handle));
  return result;
}

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  javascript = std::this_thread::get_id();
  kvx::Engine::Settings settings;
  settings.open = std::chrono::milliseconds(500);
  settings.drain = std::chrono::milliseconds(200);
  settings.stuck = std::chrono::milliseconds(500);
  kvx::register_engine(
      env, exports,
      [](const kvx::Options& options, const kvx::DriverContext& context)
          -> std::unique_ptr<kvx::Driver> { return std::make_unique<Faulty>(options, context); },
      settings);
  // For this thread and process, and for good: what follows cannot start a thread.
  exports.Set("forbidThreads", Napi::Function::New(
                                   env,
                                   [](const Napi::CallbackInfo& info) {
                                     const rlimit none{1, 1};
                                     if (setrlimit(RLIMIT_NPROC, &none) == 0) return;
                                     throw Napi::Error::New(info.Env(), "The limit cannot be set");
                                   },
                                   "forbidThreads"));
  exports.Set("world", Napi::Function::New(env, world_now, "world"));
  exports.Set("lastWait", Napi::Function::New(env, last_wait, "lastWait"));
  const auto turn = [&](const char* name, auto change) {
    exports.Set(name, Napi::Function::New(
                          env,
                          [change](const Napi::CallbackInfo& info) {
                            const std::lock_guard lock(world);
                            change(info);
                            changed.notify_all();
                          },
                          name));
  };
  turn("reset", [](const Napi::CallbackInfo&) {
    broken.clear();
    gone.clear();
    finished = unstuck = false;
    submits = polls = 0;
    last_after = {};
  });
  turn("finish", [](const Napi::CallbackInfo&) { finished = true; });
  turn("unstick", [](const Napi::CallbackInfo&) { unstuck = true; });
  turn("kill",
       [](const Napi::CallbackInfo& info) { gone.insert(info[0].As<Napi::String>().Utf8Value()); });
  return exports;
}

}  // namespace

NODE_API_MODULE(faulty, Init)
