// A driver for tests: it copies, and calls back into the engine from inside of every call. A call
// that ran under the engine's lock would never return.
#pragma once

#include <atomic>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kvx/driver.h"

namespace parts {

class CopyDriver : public kvx::Driver {
 public:
  explicit CopyDriver(kvx::DriverContext context) : context_(std::move(context)) {
    capabilities_.memory_kinds = {"cpu"};
    capabilities_.fence = "peer";
    capabilities_.max_batch_segments = 4;
    call_back();
  }
  ~CopyDriver() override { call_back(); }

  const kvx::Capabilities& capabilities() const override { return capabilities_; }
  kvx::Bytes address() const override { return {}; }

  void register_memory(kvx::RegionId id, const kvx::Memory& memory,
                       kvx::Bytes& descriptor) override {
    call_back();
    const std::lock_guard lock(mutex_);
    if (sources_.size() <= id) sources_.resize(id + 1);
    sources_[id] = reinterpret_cast<uint8_t*>(memory.address);
    descriptor.resize(sizeof memory.address);
    std::memcpy(descriptor.data(), &memory.address, sizeof memory.address);
  }
  void deregister_memory(kvx::RegionId) override { call_back(); }

  kvx::PeerId connect(const kvx::PeerAddress& peer, kvx::Clock::time_point,
                      const std::atomic<bool>&) override {
    call_back();
    const std::lock_guard lock(mutex_);
    auto& regions = peers_[++last_];
    for (const kvx::Bytes& region : peer.regions) {
      uint64_t address = 0;
      std::memcpy(&address, region.data(), sizeof address);
      regions.push_back(reinterpret_cast<uint8_t*>(address));
    }
    return static_cast<kvx::PeerId>(last_);
  }
  void disconnect(kvx::PeerId) override {
    call_back();
    disconnects++;
  }
  bool fenced(const kvx::Generation&) override {
    call_back();
    return true;
  }

  kvx::TransferId submit(kvx::PeerId peer, std::span<const kvx::Segment> segments,
                         const std::atomic<bool>&) override {
    call_back();
    const std::lock_guard lock(mutex_);
    for (const kvx::Segment& segment : segments) {
      // Links may write the same bytes: that is not what is tested.
      std::memcpy(peers_.at(peer)[segment.destination_region] + segment.destination_offset,
                  sources_[segment.source_region] + segment.source_offset, segment.bytes);
      submitted.push_back(segment);
    }
    return ++last_;
  }
  bool submits_now(kvx::PeerId) const override { return static_cast<bool>(now); }
  std::optional<kvx::PostedLanes> submit_now(kvx::PeerId, const kvx::Plan& plan) override {
    call_back();
    return now(plan);
  }
  kvx::State poll(kvx::TransferId id, std::string& reason) override {
    call_back();
    return state ? state(id, reason) : kvx::State::kDone;
  }
  void release(kvx::TransferId) override {
    call_back();
    releases++;
  }

  kvx::Clock::duration longest_spin() const override { return spin; }

  std::function<kvx::State(kvx::TransferId, std::string&)> state;  // poll thread only
  // Set before a connect: what is posted at once.
  std::function<std::optional<kvx::PostedLanes>(const kvx::Plan&)> now;
  kvx::Clock::duration spin = kvx::Driver::longest_spin();
  std::vector<kvx::Segment> submitted;
  std::atomic<int> disconnects{0}, releases{0};

 private:
  void call_back() {
    if (context_.wake) context_.wake();
  }

  const kvx::DriverContext context_;
  kvx::Capabilities capabilities_;
  std::mutex mutex_;
  std::vector<uint8_t*> sources_;
  std::map<uint64_t, std::vector<uint8_t*>> peers_;
  uint64_t last_ = 0;
};

}  // namespace parts
