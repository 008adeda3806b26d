// Digests of a logical cache in GPU memory: the values of kvx/digest.h, computed where the bytes
// lie.
#pragma once

#include <atomic>
#include <memory>
#include <span>
#include <vector>

#include "kvx/digest.h"
#include "kvx/gpu/context.h"

namespace kvx::gpu {

// One digest per tensor of a job that check_digest_job has passed; `memories` are addresses of the
// context's GPU, or of host memory that it reaches. Blocks until they are there. Ends early, with
// digests that mean nothing, when `stop` becomes true. Throws DriverError.
std::vector<Digest> digest(const std::shared_ptr<Context>& context, const DigestJob& job,
                           std::span<const kvx::detail::DigestTensor> tensors,
                           std::span<const DigestMemory> memories, const std::atomic<bool>& stop);

}  // namespace kvx::gpu
