// A peer whose memory is mapped here, from construction to destruction. One thread at a time,
// loss() excepted.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "channel.h"
#include "gpus.h"
#include "kvx/driver.h"
#include "kvx/gpu.h"

namespace kvx::shm {

class Owner {
 public:
  Owner(Generation generation, Fd socket, PeerProcess process);
  // Unmaps everything and then tells the owner so: nothing that copies there may still run.
  ~Owner();
  Owner(const Owner&) = delete;
  Owner& operator=(const Owner&) = delete;

  // Asks for a region and maps it, if it is memory of the host. The regions are numbered in this
  // order. Throws DriverError("ERR_KVX_CONNECT_FAILED"), also at the deadline.
  void add(RegionId id, uint64_t bytes, Clock::time_point deadline,
           const std::atomic<bool>& cancelled);

  // Of a region of memory of the host.
  uint8_t* data(uint32_t region) const { return regions_[region].data; }
  // The GPU that has the region; nothing for memory of the host.
  std::optional<gpu::Uuid> gpu(uint32_t region) const;
  size_t regions() const { return regions_.size(); }
  // Whether it has memory of a GPU.
  bool has_gpu() const;

  // As a GPU of this process writes to a region, which it maps the first time. Throws DriverError.
  gpu::Place place(uint32_t region, const std::shared_ptr<gpu::Context>& context, const Gpus& gpus);
  // The same of memory of a GPU that the GPU of that ordinal has mapped; else nothing.
  std::optional<gpu::Place> mapped(uint32_t region, int ordinal, const Gpus& gpus) const;

  // Why nothing can be delivered to it any more; empty while it is there.
  std::string loss() const;

  int socket() const { return socket_.get(); }

  const Generation generation;
  size_t waiting = 0;  // batches not yet copied; under the driver's lock

 private:
  struct Region {
    uint64_t bytes = 0;
    uint8_t* data = nullptr;
    std::optional<gpu::Shared> shared;
    // By the ordinal of who writes there:
    std::map<int, std::shared_ptr<gpu::Imported>> imported;
    std::map<int, std::unique_ptr<gpu::HostMemory>> pinned;
  };

  void map(Region& region, const Fd& file);
  void say(Request::Kind kind);

  Fd socket_;
  PeerProcess process_;
  std::vector<Region> regions_;
  std::map<int, gpu::Importer> importers_;  // by the ordinal of who writes
  bool said_gpu_ = false;
};

inline constexpr const char* kClosedEarly =
    "The owner of the memory closed the connection: it is gone, runs as another user, or has too "
    "many connections.";

// Waits until the socket has something to read. Throws DriverError("ERR_KVX_CONNECT_FAILED") at the
// deadline or when cancelled.
void wait_readable(int socket, Clock::time_point deadline, const std::atomic<bool>& cancelled);

// What the owner answers to a request, with its files. Throws DriverError("ERR_KVX_CONNECT_FAILED")
// also for a refusal.
Reply ask(int socket, const Request& request, Clock::time_point deadline,
          const std::atomic<bool>& cancelled, std::vector<Fd>* files = nullptr);

}  // namespace kvx::shm
