// Shared memory of one host: the writer maps the owner's memory files and GPU memory, and copies
// straight in. Between memory of the host its threads copy; wherever a GPU's memory takes part, a
// GPU of the writer does.
#pragma once

#include <atomic>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "address.h"
#include "channel.h"
#include "copier.h"
#include "door.h"
#include "gpus.h"
#include "kvx/driver.h"
#include "owner.h"
#include "source.h"
#include "watch.h"

namespace kvx::shm {

class ShmDriver : public Driver {
 public:
  // Options: copyThreads; copySmsPeer, copySmsSameGpu, copySmsToHost, copySmsFromHost.
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
  void wait_for(const After& after, const std::atomic<bool>& cancelled) override {
    gpus_->wait_for(after, cancelled);
  }
  std::optional<PostedLanes> submit_lanes(PeerId peer, Plan& plan,
                                          const std::atomic<bool>& cancelled) override;
  bool submits_now(PeerId peer) const override;
  std::optional<PostedLanes> submit_now(PeerId peer, const Plan& plan) override;
  TransferId submit(PeerId peer, std::span<const Segment> segments,
                    const std::atomic<bool>& cancelled) override;
  State poll(TransferId transfer, std::string& reason) override;
  void release(TransferId transfer) override;
  Clock::duration longest_spin() const override;
  Clock::duration longest_pause() const override;
  void stop() override;
  std::string abandon_reason() const override { return abandoned_; }

 private:
  // A launch of a GPU that has not been seen to end.
  struct Flight {
    gpu::Copier* copier;
    gpu::Copier::Ticket ticket;
  };
  struct Posted {
    std::shared_ptr<Owner> owner;
    bool copied = false;                                  // by the copy threads
    std::vector<Flight> flights = {};                     // the poll thread's own
    std::multiset<Clock::time_point>::iterator end = {};  // in ends_, while there are flights
    std::string failure = "";                             // why not everything was launched
  };

  void register_gpu(RegionId id, const Memory& memory);
  void on_ended(PeerId peer);
  void prepare(Owner& owner);
  std::optional<int> gpu_of(const Owner& owner, const Source& source, uint32_t destination) const;
  std::vector<std::shared_ptr<Source>> sources() const;
  TransferId fly(Posted posted, std::chrono::microseconds expected);

  const DriverContext context_;
  const Address address_;
  const Capabilities capabilities_;
  Door door_;
  std::unique_ptr<Gpus> gpus_;
  std::atomic<size_t> flying_{0};  // transfers of which a GPU copies something
  std::string abandoned_;

  mutable std::mutex mutex_;      // guards what follows
  std::condition_variable room_;  // a batch was copied: a submit that waits may go on
  std::vector<std::shared_ptr<Source>> sources_;  // by region
  std::unordered_map<PeerId, std::shared_ptr<Owner>> owners_;
  std::unordered_map<TransferId, Posted> posted_;
  std::multiset<Clock::time_point> ends_;  // when what flies is expected to end
  Clock::time_point last_end_;             // of what was posted last
  PeerId last_peer_ = 0;
  TransferId last_transfer_ = 0;

  Watch watch_;
  Copier copier_;  // the last member: its threads end first
};

}  // namespace kvx::shm
