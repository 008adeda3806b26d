// The Driver over MORI-IO.
//
// One queue pair per MORI session. MORI would spread one transfer over several queue pairs of a
// peer and answer with one status, which turns to an error while work requests of the same transfer
// are still under way on the other queue pairs, and never says when those have ended. Here each
// peer is made known to MORI several times, under names of its own (rails), each with one queue
// pair; the segments are spread over the rails. The first error completion stops a queue pair, so a
// failed part has settled, and what is still under way on another rail has a status of its own.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "abi.h"
#include "kvx/driver.h"
#include "posters.h"
#include "verbs.h"

namespace kvx::mori {

class MoriDriver final : public Driver {
 public:
  MoriDriver(const Options& options, const DriverContext& context);
  ~MoriDriver() override;

  const Capabilities& capabilities() const override { return capabilities_; }
  Bytes address() const override;
  void register_memory(RegionId id, const Memory& memory, Bytes& descriptor) override;
  void deregister_memory(RegionId id) override;
  PeerId connect(const PeerAddress& peer, Clock::time_point deadline,
                 const std::atomic<bool>& cancelled) override;
  void disconnect(PeerId id) override;
  bool fenced(const Generation&) override { return false; }  // fence kind "engine": never asked
  TransferId submit(PeerId id, std::span<const Segment> segments,
                    const std::atomic<bool>& cancelled) override;
  State poll(TransferId id, std::string& reason) override;
  void release(TransferId id) override;

 private:
  struct Rail {
    EngineDesc desc;  // the peer's, under this rail's name
    std::map<std::pair<RegionId, uint32_t>, std::shared_ptr<Session>>
        sessions;  // (local, remote region)
  };
  struct Peer {
    std::string name;  // for messages
    std::vector<MemoryDesc> regions;
    std::vector<Rail> rails;
    std::mutex mutex;     // guards the sessions, and `failure`
    std::string failure;  // of the first queue pair that failed
    std::atomic<bool> failed{false};
    uint32_t next_rail = 0;  // used by the one thread that submits
  };
  // What one rail was given of a transfer.
  struct Part {
    std::shared_ptr<Session> session;
    Sizes source, destination, sizes;
    TransferStatus status;
    bool certain = true;  // an error of it means that nothing more of it is under way
  };
  struct Transfer {
    std::shared_ptr<Peer> peer;
    std::vector<std::unique_ptr<Part>> parts;
  };

  std::shared_ptr<Session> session(Peer& peer, Rail& rail, RegionId local, uint32_t remote);
  std::shared_ptr<Session> make_session(const MemoryDesc& local, MemoryDesc remote,
                                        const Rail& rail);
  std::shared_ptr<Peer> peer(PeerId id);
  void forget(Peer& peer);
  void post(Part& part);
  void fail_peer(Peer& peer, const std::string& reason);
  EngineDesc own_desc() const;

  const Api* api_;
  std::vector<Device> devices_;
  Capabilities capabilities_;
  std::string version_;
  size_t rail_count_;
  // Whether each session has one queue pair and fails by completions only, see above. Variables of
  // MORI can change both; then a failed transfer settles when the engine is closed.
  bool failures_settle_;
  std::unique_ptr<unsigned char[]> engine_;  // room for MORI's IOEngine
  std::unique_ptr<Posters> posters_;

  std::mutex mutex_;  // guards what follows
  std::map<RegionId, MemoryDesc> regions_;
  std::map<PeerId, std::shared_ptr<Peer>> peers_;
  PeerId next_peer_ = 0;
  std::unordered_map<TransferId, std::unique_ptr<Transfer>> transfers_;
  TransferId next_transfer_ = 0;
};

}  // namespace kvx::mori
