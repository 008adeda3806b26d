// An engine of somebody else's package: it includes what @kvx/native publishes, and nothing is
// linked to it. It copies within one process.
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

#include "kvx/addon.h"

namespace {

class Copy : public kvx::Driver {
 public:
  Copy() {
    capabilities_.memory_kinds = {"cpu"};
    capabilities_.fence = "engine";
    capabilities_.version = "1";
  }
  const kvx::Capabilities& capabilities() const override { return capabilities_; }
  kvx::Bytes address() const override { return {}; }

  void register_memory(kvx::RegionId id, const kvx::Memory& memory,
                       kvx::Bytes& descriptor) override {
    const std::lock_guard lock(mutex_);
    sources_[id] = reinterpret_cast<uint8_t*>(memory.address);
    const auto* address = reinterpret_cast<const uint8_t*>(&memory.address);
    descriptor.assign(address, address + sizeof memory.address);
  }
  void deregister_memory(kvx::RegionId id) override {
    const std::lock_guard lock(mutex_);
    sources_.erase(id);
  }
  kvx::PeerId connect(const kvx::PeerAddress& peer, kvx::Clock::time_point,
                      const std::atomic<bool>&) override {
    const std::lock_guard lock(mutex_);
    for (const kvx::Bytes& region : peer.regions) {
      uint64_t address = 0;
      std::memcpy(&address, region.data(), sizeof address);
      peers_[last_ + 1].push_back(reinterpret_cast<uint8_t*>(address));
    }
    return ++last_;
  }
  void disconnect(kvx::PeerId peer) override {
    const std::lock_guard lock(mutex_);
    peers_.erase(peer);
  }
  bool fenced(const kvx::Generation&) override { return false; }
  kvx::TransferId submit(kvx::PeerId peer, std::span<const kvx::Segment> segments,
                         const std::atomic<bool>&) override {
    const std::lock_guard lock(mutex_);
    for (const kvx::Segment& each : segments) {
      std::memcpy(peers_.at(peer)[each.destination_region] + each.destination_offset,
                  sources_.at(each.source_region) + each.source_offset, each.bytes);
    }
    return 0;
  }
  kvx::State poll(kvx::TransferId, std::string&) override { return kvx::State::kDone; }
  void release(kvx::TransferId) override {}

 private:
  kvx::Capabilities capabilities_;
  std::mutex mutex_;
  std::map<kvx::RegionId, uint8_t*> sources_;
  std::map<kvx::PeerId, std::vector<uint8_t*>> peers_;
  kvx::PeerId last_ = 0;
};

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  kvx::register_engine(env, exports, [](const kvx::Options&, const kvx::DriverContext&) {
    return std::make_unique<Copy>();
  });
  return exports;
}

}  // namespace

NODE_API_MODULE(outside, Init)
