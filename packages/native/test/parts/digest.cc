#include "kvx/digest.h"

#include <cstring>
#include <memory>
#include <random>

#include "check.h"

using namespace kvx;

namespace {

std::vector<Digest> digest_of(const DigestJob& job, std::span<const DigestMemory> memories) {
  const std::atomic<bool> stop{false};
  return digest(job, check_digest_job(job, memories), memories, stop);
}

// One page of 3 rows of 2 units, in memory that ends with its last byte.
DigestJob page_of(uint64_t unit_bytes, uint64_t element_bytes) {
  const auto unit = static_cast<double>(unit_bytes);
  const auto element = static_cast<double>(element_bytes);
  DigestJob job;
  job.page_tokens = 3;
  // With elements apart the rows lie innermost.
  if (element_bytes == unit_bytes) {
    job.tensors = {0, 0, 0, 3, 2, 0, unit, unit, 2 * unit, unit, unit};
  } else {
    job.tensors = {0, 0, 0, 3, 2, 0, unit, element, element, 3 * unit, 3 * element};
  }
  job.keys = {1};
  job.runs = {0, 0, 3, 0};
  return job;
}

}  // namespace

// Under the address sanitizer a byte too many ends the program.
TEST("a digest reads every byte of its cells, and none behind the end of the memory") {
  for (uint64_t unit_bytes : {1, 7, 8, 15, 16, 17, 24, 128, 1023, 1024, 1025, 2056}) {
    for (uint64_t element_bytes : {uint64_t{1}, uint64_t{8}, unit_bytes}) {
      if (unit_bytes % element_bytes != 0) continue;
      const uint64_t size = 6 * unit_bytes;
      const std::unique_ptr<uint8_t[]> bytes(new uint8_t[size]);
      std::mt19937_64 random(unit_bytes);
      for (uint64_t i = 0; i < size; i++) bytes[i] = static_cast<uint8_t>(random());
      const DigestMemory memory[] = {{bytes.get(), size}};
      const DigestJob job = page_of(unit_bytes, element_bytes);
      const Digest before = digest_of(job, memory)[0];
      for (uint64_t i = 0; i < size; i++) {
        bytes[i] ^= 1;
        const Digest after = digest_of(job, memory)[0];
        CHECK(after.first != before.first && after.second != before.second);
        bytes[i] ^= 1;
      }
    }
  }
}

TEST("memory that is one byte too short for a digest is refused") {
  for (uint64_t element_bytes : {2, 128}) {
    const std::vector<uint8_t> bytes(6 * 128);
    const DigestMemory exact[] = {{bytes.data(), bytes.size()}};
    const DigestMemory short_of[] = {{bytes.data(), bytes.size() - 1}};
    const DigestJob job = page_of(128, element_bytes);
    check_digest_job(job, exact);
    bool refused = false;
    try {
      check_digest_job(job, short_of);
    } catch (const DigestError&) {
      refused = true;
    }
    CHECK(refused);
  }
}

TEST("a digest that is stopped reads nothing more") {
  // Whoever reads this memory crashes.
  const DigestMemory nowhere[] = {{reinterpret_cast<const uint8_t*>(8), 6 * 128}};
  const DigestJob job = page_of(128, 128);
  const std::atomic<bool> stop{true};
  CHECK(digest(job, check_digest_job(job, nowhere), nowhere, stop).size() == 1);
}
