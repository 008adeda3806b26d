// Copies by a kernel of one GPU: one launch per batch, whose addresses the kernel computes.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <memory>
#include <string>

#include "kvx/driver.h"
#include "kvx/gpu/batch.h"
#include "kvx/gpu/context.h"

namespace kvx::gpu {

// What has to have happened before the first byte is read: handles of the host's own CUDA, in the
// same process and on the same GPU.
struct After {
  EventHandle event = nullptr;    // an event that was recorded
  StreamHandle stream = nullptr;  // everything that was put on this stream so far
};

// Multiprocessors that copy at once, by path, for all links together: what the model on the same
// GPU goes without. docs/engines/cuda.md has the measurements that the defaults come from.
struct CopySms {
  std::array<unsigned, kPaths> of = {8, 16, 1, 2};  // in the order of Path
};

// Transfers of one path run in the order of their submits, one launch after another, so that all
// links together use the budget once. One that waits for `after` holds up those behind it: the
// host's chunks become ready in the order in which it submits them.
class Copier {
 public:
  using Ticket = uint64_t;

  // Loads the kernels: 0.1 s the first time on a machine. Throws
  // DriverError("ERR_KVX_BACKEND_UNAVAILABLE").
  Copier(std::shared_ptr<Context> context, CopySms sms);
  // Waits for what runs, for as long as stop() says; see abandoned().
  ~Copier();
  Copier(const Copier&) = delete;
  Copier& operator=(const Copier&) = delete;

  // Launches; the batch is only read during the call. Any thread. Blocks while the room for
  // plans that have not yet run is used up, until there is some or `cancelled` is true. Throws
  // DriverError("ERR_KVX_TRANSFER_FAILED") when nothing of it was launched.
  Ticket submit(const Batch& batch, const After& after, const std::atomic<bool>& cancelled);

  // kFailed, not settled, after an error that CUDA cannot recover from: `reason` says which. Any
  // thread, never blocks.
  State poll(Ticket ticket, std::string& reason);
  // Forgets a ticket after kDone.
  void release(Ticket ticket);

  // Waits until nothing of this runs any more, and at most so long. False: it still runs, or the
  // context is broken; then nothing that copies go to may be unmapped, and the destructor gives
  // nothing back that they use.
  bool stop(std::chrono::milliseconds longest);
};

}  // namespace kvx::gpu
