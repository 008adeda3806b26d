#include "kvx/gpu/digest.h"

#include <random>

#include "device_memory.h"

namespace {

struct Made {
  DigestJob job;
  uint64_t bytes;
};

Made job_of(uint64_t unit_bytes, uint64_t element_bytes, bool rows_inside, uint64_t page_tokens,
            uint64_t rows) {
  Made made;
  const uint64_t units = 3, elements = unit_bytes / element_bytes;
  const uint64_t base = 16, pages = 9;
  uint64_t row_stride = units * unit_bytes, unit_stride = unit_bytes;
  uint64_t element_stride = element_bytes;
  if (rows_inside) {
    row_stride = element_bytes;
    element_stride = rows * element_bytes;
    unit_stride = elements * element_stride;
  }
  const uint64_t page_bytes = rows * units * unit_bytes + 8;
  made.job.page_tokens = static_cast<double>(page_tokens);
  for (const uint64_t first_unit : {0, 5}) {
    for (const uint64_t field : {uint64_t{0}, base, page_bytes, rows, units, first_unit, unit_bytes,
                                 element_bytes, row_stride, unit_stride, element_stride}) {
      made.job.tensors.push_back(static_cast<double>(field));
    }
    made.job.keys.push_back(77 + first_unit);
  }
  const auto tokens = static_cast<int32_t>(page_tokens);
  // Two pages and a half from page 1 on, an empty run, and one page elsewhere.
  made.job.runs = {1, 0, 2 * tokens + tokens / 2, 4 * tokens, 0, 0, 0, 0, 7, 0, tokens, 0};
  made.bytes = base + pages * page_bytes;
  return made;
}

}  // namespace

TEST("digests of GPU memory are those of the processor, for every layout") {
  const auto context = gpu::Context::open(0);
  for (const uint64_t unit_bytes : {2, 24, 128, 1000, 1024, 1032, 2056}) {
    for (const uint64_t element_bytes : {uint64_t{2}, unit_bytes}) {
      for (const bool rows_inside : {false, true}) {
        for (const uint64_t rows : {4, 16}) {
          const Made made = job_of(unit_bytes, element_bytes, rows_inside, 16, rows);
          const Data data = pattern(made.bytes, unit_bytes);
          const gpu::Allocation memory(context, made.bytes);
          write(*context, memory.address(), data);
          const DigestMemory here[] = {{data.data(), data.size()}};
          const DigestMemory there[] = {
              {reinterpret_cast<const uint8_t*>(memory.address()), data.size()}};
          const auto tensors = check_digest_job(made.job, here);
          const std::atomic<bool> stop{false};
          const auto expected = digest(made.job, tensors, here, stop);
          const auto found = gpu::digest(context, made.job, tensors, there, stop);
          CHECK(found.size() == 2 && expected.size() == 2);
          for (size_t i = 0; i < 2; i++) {
            CHECK(found[i].first == expected[i].first && found[i].second == expected[i].second);
          }
          CHECK(found[0].first != found[1].first);
        }
      }
    }
  }
}

TEST("a digest of no tensors is empty") {
  const auto context = gpu::Context::open(0);
  CHECK(gpu::digest(context, {}, {}, {}, false).empty());
}
