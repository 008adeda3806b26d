// What a transfer engine implements. Everything else (plans, threads, deadlines, the JavaScript
// side) is done once, in engine.h and addon.h.
//
// Thread rules. The engine keeps the first six, a driver may rely on them; a driver keeps the rest.
//  1. register_memory and deregister_memory are called one at a time, never on the JavaScript
//  thread.
//  2. connect runs on a thread of its own: several may run at once, and beside everything else.
//  3. wait_for, submit_lanes, submit and submit_now are called by one thread at a time per peer.
//  Different peers submit at the same time. All but submit_now, which is called on the JavaScript
//  thread, may block: a full or silent peer must stall nobody else.
//  4. poll, release and fenced are called by the one poll thread only. They must not block.
//  5. disconnect(peer) is called when no submit of that peer runs and every transfer of it was
//     released or has been given up (see 7). deregister_memory likewise.
//  6. The destructor runs when no other call is running or will come.
//  7. After the destructor returns, no byte of any transfer may land anywhere, whatever its state
//     was: this is what makes closing an engine a fence. A driver that cannot promise it says so:
//     in `abandon_reason` when it had to leak its engine, which may still touch memory that is
//     registered here; in `unsettled_reason` when its engine is gone and only bytes that had left
//     may still land at a target.
//  8. A driver may start threads of its own. They end in the destructor, never after it, and never
//     touch JavaScript. All its threads block every signal: signals belong to the host's main
//     thread.
//  9. No exception but DriverError may leave a driver.
// 10. All threads still run while a process ends by process.exit, which closes no engine: what one
//     of them uses has no static destructor (`static auto& all = *new std::map<…>`).
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace kvx {

using Bytes = std::vector<uint8_t>;
using Clock = std::chrono::steady_clock;
using RegionId = uint32_t;       // position in the order of register_memory, never used again
using PeerId = uint32_t;         // chosen by the driver
using TransferId = uint64_t;     // chosen by the driver
using Generation = std::string;  // 32 lower-case hex digits

enum class MemoryKind { kCpu, kCuda, kHip };

struct Memory {
  uint64_t address = 0;
  uint64_t bytes = 0;
  MemoryKind kind = MemoryKind::kCpu;
  int device = 0;
  int fd = -1;   // kCpu: a memory file that holds exactly this range; kCuda: a shareable handle of
                 // the allocation; or -1. The driver duplicates what it keeps
  Bytes handle;  // kCuda: the handle of cuIpcGetMemHandle, or empty
  uint64_t offset = 0;  // kCuda: of the range in what `fd` or `handle` names
};

// Work of a device that must be over before a driver reads the first byte: a recorded event, or a
// stream, which stands for what it was given so far.
struct After {
  enum class Kind { kNothing, kEvent, kStream };
  Kind kind = Kind::kNothing;
  uint64_t handle = 0;
};

struct Capabilities {
  std::vector<std::string> memory_kinds;  // "cpu", "cuda", "hip"
  bool cross_host = false;
  std::string fence;                // "peer", "engine" or "exit"
  uint64_t max_segment_bytes = 0;   // the engine splits larger segments; 0: no limit
  uint64_t max_batch_segments = 0;  // the engine submits at most so many at once; 0: no limit
  uint64_t min_efficient_run = 0;
  bool after = false;   // wait_for can be called
  std::string version;  // of the engine or the vendor's library
};

struct PeerAddress {
  Generation generation;
  Bytes address;
  std::vector<Bytes> regions;  // descriptors; Segment::destination_region counts in this list
};

// One contiguous piece. Offsets count from the start of the region and were checked against it.
struct Segment {
  uint32_t source_region;
  uint32_t destination_region;
  uint64_t source_offset;
  uint64_t destination_offset;
  uint64_t bytes;
};

struct Plan;  // plan.h

struct PostedLanes {
  TransferId transfer;
  uint64_t segments;  // contiguous pieces that they stand for
};

enum class State {
  kPending,
  kDone,           // every byte is visible to the target; nothing more can land
  kFailed,         // failed, but bytes may still land: the engine keeps polling it
  kFailedSettled,  // failed, and nothing more can land
};

// Thrown by drivers; becomes a KvxError with this code.
class DriverError : public std::runtime_error {
 public:
  DriverError(std::string code, const std::string& message)
      : std::runtime_error(message), code_(std::move(code)) {}
  const std::string& code() const noexcept { return code_; }

 private:
  std::string code_;
};

// Options as checked by the TypeScript side: flat, lists are joined by commas.
class Options {
 public:
  using Value = std::variant<bool, double, std::string>;
  std::map<std::string, Value> values;

  std::string text(const std::string& key, std::string fallback = "") const {
    const auto* value = find<std::string>(key);
    return value ? *value : fallback;
  }
  double number(const std::string& key, double fallback) const {
    const auto* value = find<double>(key);
    return value ? *value : fallback;
  }
  bool flag(const std::string& key, bool fallback) const {
    const auto* value = find<bool>(key);
    return value ? *value : fallback;
  }

 private:
  template <typename T>
  const T* find(const std::string& key) const {
    const auto it = values.find(key);
    return it == values.end() ? nullptr : std::get_if<T>(&it->second);
  }
};

// Given to a driver when it is made.
struct DriverContext {
  Generation generation;
  // Wakes the poll thread at once. May be called from any thread, also when nothing is pending.
  // A driver that never calls it is polled: the poll thread spins briefly, then sleeps in growing
  // steps.
  std::function<void()> wake;
  // Tells that the engine of that generation, a writer or an owner that this one was connected
  // with, has ended: its process has exited, or it was closed. It must be true. What a driver does
  // not know it does not say. May be called from any thread, and more than once.
  std::function<void(const Generation&, const std::string& reason)> peer_gone;
};

class Driver {
 public:
  Driver() = default;
  Driver(const Driver&) = delete;
  Driver& operator=(const Driver&) = delete;
  virtual ~Driver() = default;

  virtual const Capabilities& capabilities() const = 0;
  virtual Bytes address() const = 0;

  // Fills `descriptor` with what a writer's connect needs to know of the region.
  virtual void register_memory(RegionId id, const Memory& memory, Bytes& descriptor) = 0;
  virtual void deregister_memory(RegionId id) = 0;

  // Throws DriverError("ERR_KVX_CONNECT_FAILED", reason). Gives up at the deadline, or soon after
  // `cancelled`.
  virtual PeerId connect(const PeerAddress& peer, Clock::time_point deadline,
                         const std::atomic<bool>& cancelled) = 0;
  virtual void disconnect(PeerId peer) = 0;

  // Whether no byte of that generation can land any more. Bars a generation that never connected.
  // Only called when capabilities().fence is "peer" or "exit".
  virtual bool fenced(const Generation& generation) = 0;

  // Returns once a device has done what a transfer must come after. Throws DriverError when that
  // cannot be known, and soon after `cancelled`. Called only when capabilities().after, before
  // anything of the transfer is submitted.
  virtual void wait_for(const After&, const std::atomic<bool>& /*cancelled*/) {
    throw DriverError("ERR_KVX_INTERNAL", "This driver cannot wait for the work of a device.");
  }

  // Before the segments of a transfer: a driver that copies whole lanes by itself posts those and
  // takes them out of the plan, which check_plan has passed. Nothing: it has posted none. The rules
  // of submit.
  virtual std::optional<PostedLanes> submit_lanes(PeerId, Plan&,
                                                  const std::atomic<bool>& /*cancelled*/) {
    return std::nullopt;
  }

  // Whether submit_now may post for that peer. Asked once, after connect.
  virtual bool submits_now(PeerId) const { return false; }
  // Posts all of a plan that check_plan has passed if that is done within some microseconds, waits
  // for nothing and cannot fail; else nothing, and what it throws is as nothing: the plan then goes
  // the usual way.
  virtual std::optional<PostedLanes> submit_now(PeerId, const Plan&) { return std::nullopt; }

  // Posts. Throws DriverError when nothing of it was posted; what fails later is told by poll.
  // The segments are only valid during the call. `cancelled` may turn true while it blocks.
  virtual TransferId submit(PeerId peer, std::span<const Segment> segments,
                            const std::atomic<bool>& cancelled) = 0;
  // Writes why into `reason` when it answers kFailed or kFailedSettled. A reason may begin with a
  // code and a colon ("ERR_KVX_PEER_LOST: ..."); the code is ERR_KVX_TRANSFER_FAILED otherwise.
  virtual State poll(TransferId transfer, std::string& reason) = 0;
  // Called once per submitted transfer, after kDone or kFailedSettled.
  virtual void release(TransferId transfer) = 0;
  // How long the poll thread looks without a pause after something was posted or has ended, while
  // transfers are pending: a core is busy meanwhile, and what ends in that time is seen at once.
  // Asked again after every look: the longest duration there is means one look more. The poll
  // thread's call.
  virtual Clock::duration longest_spin() const { return std::chrono::microseconds(50); }
  // How long the poll thread may sleep while transfers are pending, for a driver that does not wake
  // it. The poll thread's call.
  virtual Clock::duration longest_pause() const { return std::chrono::milliseconds(1); }

  // Called once when no other call runs or will come, before the reasons and the destructor: a
  // driver that only knows whether it can keep rule 7 after it has taken its engine down does so
  // here.
  virtual void stop() {}
  // One is not empty when rule 7 could not be kept.
  virtual std::string abandon_reason() const { return ""; }
  virtual std::string unsettled_reason() const { return ""; }
};

}  // namespace kvx
