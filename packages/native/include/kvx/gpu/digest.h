// Digests of a logical cache in GPU memory: the values of kvx/digest.h, computed where the bytes
// lie.
#pragma once

#include <algorithm>
#include <atomic>
#include <memory>
#include <span>
#include <vector>

#include "kvx/digest.h"
#include "kvx/gpu/context.h"
#include "kvx/gpu/kernels.h"
#include "kvx/gpu/stream.h"

namespace kvx::gpu {

namespace detail {

// The rows of one run of pages for one tensor; kernels/kvx.cu has the same struct.
struct DigestRun {
  uint64_t base, page_bytes, first_row, coordinates, rows, rows_per_page, units;
  uint64_t row_stride, unit_stride, element_stride, unit_bytes, element_bytes, unit_factor;
};

inline DigestRun digest_run(const DigestJob& job, const kvx::detail::DigestTensor& tensor,
                            uint64_t key, uint64_t memory, const int32_t* run) {
  const auto rows =
      kvx::detail::digest_rows(run, tensor.rows, static_cast<uint64_t>(job.page_tokens));
  return {.base = memory + tensor.base + static_cast<uint64_t>(run[0]) * tensor.page_bytes,
          .page_bytes = tensor.page_bytes,
          .first_row = rows.from,
          .coordinates = key + (rows.from + rows.shift) * kvx::detail::kRowFactor +
                         tensor.first_unit * kvx::detail::kUnitFactor,
          .rows = rows.end - rows.from,
          .rows_per_page = tensor.rows,
          .units = tensor.units,
          .row_stride = tensor.row_stride,
          .unit_stride = tensor.unit_stride,
          .element_stride = tensor.element_stride,
          .unit_bytes = tensor.unit_bytes,
          .element_bytes = tensor.element_bytes,
          .unit_factor = kvx::detail::kUnitFactor};
}

}  // namespace detail

// One digest per tensor of a job that check_digest_job has passed; `memories` are addresses of the
// context's GPU, or of host memory that it reaches. Blocks until they are there. Ends early, with
// digests that mean nothing, when `stop` becomes true. Throws DriverError.
inline std::vector<Digest> digest(const std::shared_ptr<Context>& context, const DigestJob& job,
                                  std::span<const kvx::detail::DigestTensor> tensors,
                                  std::span<const DigestMemory> memories,
                                  const std::atomic<bool>& stop) {
  if (tensors.empty()) return {};
  constexpr const char* kCode = "ERR_KVX_INTERNAL";
  constexpr unsigned kThreads = 256, kMostBlocks = 64;
  const Kernels kernels(context);
  const Context::Current current(*context);
  const Api& api = context->api();
  const size_t bytes = tensors.size() * sizeof(Digest);
  const detail::Scratch sums(*context, bytes, kCode);
  const detail::PinnedBuffer result(*context, bytes, kCode);
  // The last of these: it ends before what its kernels use.
  const detail::Stream stream(*context, kCode);
  context->check(api.set_async(sums.address(), 0, bytes, stream.get()), "cuMemsetD8Async", kCode);
  for (size_t t = 0; t < tensors.size(); t++) {
    const auto memory = reinterpret_cast<uint64_t>(memories[tensors[t].region].bytes);
    Address sum = sums.address() + t * sizeof(Digest);
    for (size_t i = 0; i < job.runs.size() && !stop; i += kDigestRunWidth) {
      const int32_t* run = job.runs.data() + i;
      if (run[2] == 0) continue;
      auto parameter = detail::digest_run(job, tensors[t], job.keys[t], memory, run);
      const auto blocks = static_cast<unsigned>(
          std::min<uint64_t>(kMostBlocks, (parameter.rows * parameter.units + 7) / 8));
      void* parameters[] = {&parameter, &sum};
      context->check(api.launch(kernels.digest, blocks, 1, 1, kThreads, 1, 1, 0, stream.get(),
                                parameters, nullptr),
                     "cuLaunchKernel", kCode);
    }
  }
  context->check(api.copy_async(result.address(), sums.address(), bytes, stream.get()),
                 "cuMemcpyAsync", kCode);
  context->check(stream.wait([] { return false; }), "a digest", kCode);
  std::vector<Digest> digests(tensors.size());
  std::memcpy(digests.data(), result.data(), bytes);
  return digests;
}

}  // namespace kvx::gpu
