// Outcomes on their way to whoever called. Under the engine's lock.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "kvx/driver.h"
#include "kvx/engine/failure.h"

namespace kvx {

struct Event {
  enum class Kind { kDone, kFailed, kSettled, kPeerGone };
  uint64_t operation = 0;
  Kind kind = Kind::kDone;
  uint64_t first = 0;   // register: the region's number; transfer: bytes
  uint64_t second = 0;  // transfer: segments
  Bytes bytes;          // register: the descriptor
  std::string code, message;
  Generation peer;  // of kPeerGone, which belongs to no operation
};

namespace engine {

class Outbox {
 public:
  // `notify` is called when the first event of a batch is there.
  explicit Outbox(std::function<void()> notify) : notify_(std::move(notify)) {}

  void done(uint64_t operation, uint64_t first = 0, uint64_t second = 0, Bytes bytes = {}) {
    push({operation, Event::Kind::kDone, first, second, std::move(bytes), {}, {}, {}});
  }
  void fail(uint64_t operation, Failure failure) {
    push({operation,
          Event::Kind::kFailed,
          0,
          0,
          {},
          std::move(failure.code),
          std::move(failure.message),
          {}});
  }
  void settled(uint64_t operation) {
    push({operation, Event::Kind::kSettled, 0, 0, {}, {}, {}, {}});
  }
  void peer_gone(Generation peer, std::string reason) {
    push({0, Event::Kind::kPeerGone, 0, 0, {}, {}, std::move(reason), std::move(peer)});
  }

  // The whole batch; the next event begins another one.
  std::vector<Event> take() { return std::exchange(events_, {}); }

 private:
  void push(Event event) {
    events_.push_back(std::move(event));
    if (events_.size() == 1) notify_();
  }

  const std::function<void()> notify_;
  std::vector<Event> events_;
};

}  // namespace engine

}  // namespace kvx
