// Shared memory of one host: the writer maps the owner's memory files and copies straight in.
#pragma once

#include <atomic>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "address.h"
#include "channel.h"
#include "copier.h"
#include "door.h"
#include "kvx/driver.h"
#include "watch.h"

namespace kvx::shm {

class ShmDriver : public Driver {
 public:
  // Option: copyThreads.
  ShmDriver(const Options& options, DriverContext context);
  ~ShmDriver() override;

  const Capabilities& capabilities() const override { return capabilities_; }
  Bytes address() const override { return encode(address_); }
  void register_memory(RegionId id, const Memory& memory, Bytes& descriptor) override;
  void deregister_memory(RegionId id) override;
  PeerId connect(const PeerAddress& peer, Clock::time_point deadline,
                 const std::atomic<bool>& cancelled) override;
  void disconnect(PeerId peer) override;
  bool fenced(const Generation& generation) override { return door_.fenced(generation); }
  TransferId submit(PeerId peer, std::span<const Segment> segments,
                    const std::atomic<bool>& cancelled) override;
  State poll(TransferId transfer, std::string& reason) override;
  void release(TransferId transfer) override;

 private:
  class Owner;  // a peer whose memory is mapped here

  void on_ended(PeerId peer);

  struct Posted {
    std::shared_ptr<Owner> owner;
    bool copied = false;
  };

  const DriverContext context_;
  const Address address_;
  const Capabilities capabilities_;
  Door door_;

  std::mutex mutex_;                     // guards what follows
  std::condition_variable room_;         // a batch was copied: a submit that waits may go on
  std::vector<const uint8_t*> sources_;  // by region
  std::unordered_map<PeerId, std::shared_ptr<Owner>> owners_;
  std::unordered_map<TransferId, Posted> posted_;
  PeerId last_peer_ = 0;
  TransferId last_transfer_ = 0;

  Watch watch_;
  Copier copier_;  // the last member: its threads end first
};

}  // namespace kvx::shm
