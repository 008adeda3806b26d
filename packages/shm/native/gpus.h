// The GPUs that an engine uses. A process that names no memory of a GPU never loads CUDA.
#pragma once

#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "kvx/driver.h"
#include "kvx/gpu.h"

namespace kvx::shm {

// Whether the driver of a GPU may be here. Costs nothing, and does not say that it works.
bool may_have_gpu();

class Gpus {
 public:
  explicit Gpus(gpu::CopySms sms) : sms_(sms) {}
  Gpus(const Gpus&) = delete;
  Gpus& operator=(const Gpus&) = delete;

  // The first call loads CUDA, which takes up to half a second. Throws
  // DriverError("ERR_KVX_MEMORY") with the reason why memory of that GPU cannot be used.
  const gpu::Device& device(int ordinal) const;
  // Nothing when this process does not see that GPU.
  std::optional<int> ordinal_of(const gpu::Uuid& uuid) const;

  // These throw DriverError("ERR_KVX_BACKEND_UNAVAILABLE"); the first call for a GPU takes some
  // tenths of a second.
  std::shared_ptr<gpu::Context> context(int ordinal);
  gpu::Copier& copier(int ordinal);
  // The copier of a GPU that has been used; null without one, and while another is made ready.
  gpu::Copier* ready_copier(int ordinal);

  // As Driver::wait_for.
  void wait_for(const After& after, const std::atomic<bool>& cancelled);

  // As gpu::Copier::stop, of all of them: the text says which GPU may still copy, and is empty when
  // none does.
  std::string stop(std::chrono::milliseconds longest);

 private:
  struct Used {
    std::shared_ptr<gpu::Context> context;
    std::unique_ptr<gpu::Copier> copier;
  };

  const gpu::CopySms sms_;
  std::mutex mutex_;  // guards what follows
  std::map<int, Used> used_;
};

}  // namespace kvx::shm
