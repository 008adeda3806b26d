// Digests of a logical cache: the checks of a job, and the hash. Both are defined at `DigestJob` of
// @kvx/contract. Every number comes from JavaScript, so nothing is computed in less than 128 bits
// before it was checked against the regions.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace kvx {

inline constexpr size_t kDigestTensorWidth = 11;
inline constexpr size_t kDigestRunWidth = 4;

// As `DigestJob`.
struct DigestJob {
  double page_tokens = 0;
  std::vector<double> tensors;
  std::vector<uint64_t> keys;
  std::vector<int32_t> runs;
};

struct Digest {
  uint64_t first = 0, second = 0;
};

// Memory of a region; null for one that is not registered.
struct DigestMemory {
  const uint8_t* bytes = nullptr;
  uint64_t size = 0;
};

class DigestError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

namespace detail {

static_assert(std::endian::native == std::endian::little, "the hash reads little-endian words");

inline constexpr uint64_t kDigestBlockBytes = 1024;
inline constexpr uint64_t kRowFactor = 0x9E3779B97F4A7C15;
inline constexpr uint64_t kUnitFactor = 0xC2B2AE3D27D4EB4F;
inline constexpr uint64_t kBlockFactor = 0x165667B19E3779F9;
inline constexpr uint64_t kBytesFactor = 0x27D4EB2F165667C5;

constexpr uint64_t mix(uint64_t x) {
  constexpr uint64_t kFactor = 0xD6E8FEB86659FD93;
  x ^= x >> 32;
  x *= kFactor;
  x ^= x >> 32;
  x *= kFactor;
  x ^= x >> 32;
  return x;
}

inline constexpr auto kWordKeys = [] {
  std::array<uint64_t, kDigestBlockBytes / 8> keys{};
  for (size_t j = 0; j < keys.size(); j++) keys[j] = mix((j + 1) * kRowFactor);
  return keys;
}();

struct Products {
  uint64_t low = 0, high = 0;

  void add(const uint8_t* words, const uint64_t* keys) {
    uint64_t w[2];
    std::memcpy(w, words, sizeof w);
    const auto product = static_cast<unsigned __int128>(w[0] + keys[0]) * (w[1] + keys[1]);
    low += static_cast<uint64_t>(product);
    high += static_cast<uint64_t>(product >> 64);
  }
};

// Adds the hash of one block. `coordinates` are those of its cell, before they are mixed.
inline void add_block(Digest& digest, uint64_t coordinates, uint64_t block, const uint8_t* bytes,
                      uint64_t count) {
  // What is hashed soon is fetched while this is: short blocks leave the processor too little to
  // look ahead in.
  constexpr uint64_t kAhead = 2048;
  for (uint64_t at = 0; at < count; at += 64) __builtin_prefetch(bytes + kAhead + at);
  Products products;
  const uint64_t* keys = kWordKeys.data();
  uint64_t at = 0;
  for (; at + 16 <= count; at += 16, keys += 2) products.add(bytes + at, keys);
  if (at < count) {
    uint8_t rest[16] = {};
    std::memcpy(rest, bytes + at, count - at);
    products.add(rest, keys);
  }
  const uint64_t seed = mix(coordinates + block * kBlockFactor + count * kBytesFactor);
  const uint64_t x = mix(products.low + seed);
  const uint64_t y = mix(products.high + x);
  digest.first += y;
  digest.second += mix(x ^ y);
}

// One row of `DigestJob.tensors`.
struct DigestTensor {
  uint64_t region, base, page_bytes, rows, units, first_unit, unit_bytes, element_bytes, row_stride,
      unit_stride, element_stride;

  uint64_t elements() const { return unit_bytes / element_bytes; }
  bool scattered() const { return elements() > 1 && element_stride != element_bytes; }
};

// Copies elements that lie apart side by side.
template <size_t Bytes>
void gather(uint8_t* to, const uint8_t* from, uint64_t stride, uint64_t count) {
  for (uint64_t i = 0; i < count; i++) std::memcpy(to + i * Bytes, from + i * stride, Bytes);
}

inline void gather_elements(uint8_t* to, const uint8_t* from, uint64_t bytes, uint64_t stride,
                            uint64_t count) {
  switch (bytes) {
    case 1:
      return gather<1>(to, from, stride, count);
    case 2:
      return gather<2>(to, from, stride, count);
    case 4:
      return gather<4>(to, from, stride, count);
    default:
      for (uint64_t i = 0; i < count; i++) std::memcpy(to + i * bytes, from + i * stride, bytes);
  }
}

// Adds the hash of a cell. `scratch` has room for a unit where elements lie apart, and is null
// where they do not.
inline void add_cell(Digest& digest, uint64_t coordinates, const DigestTensor& tensor,
                     const uint8_t* cell, uint8_t* scratch) {
  if (scratch != nullptr) {
    gather_elements(scratch, cell, tensor.element_bytes, tensor.element_stride, tensor.elements());
    cell = scratch;
  }
  for (uint64_t from = 0; from < tensor.unit_bytes; from += kDigestBlockBytes) {
    add_block(digest, coordinates, from / kDigestBlockBytes, cell + from,
              std::min(kDigestBlockBytes, tensor.unit_bytes - from));
  }
}

inline uint64_t digest_number(double value, bool zero, const char* what) {
  constexpr double kLargest = 9007199254740992.0;  // 2^53
  // Written so that NaN fails.
  if (!(value >= (zero ? 0 : 1) && value <= kLargest && std::floor(value) == value)) {
    throw DigestError(std::string(what) + " must be an integer from " + (zero ? "0" : "1") +
                      " to 2^53, got " + std::to_string(value));
  }
  return static_cast<uint64_t>(value);
}

inline DigestTensor digest_tensor(const double* fields) {
  static constexpr struct {
    const char* name;
    bool zero;
  } kFields[kDigestTensorWidth] = {
      {"region", true},         {"base", true},          {"pageBytes", true},
      {"rows per page", false}, {"units", false},        {"first unit", true},
      {"unitBytes", false},     {"elementBytes", false}, {"row stride", true},
      {"unit stride", true},    {"element stride", true}};
  uint64_t n[kDigestTensorWidth];
  for (size_t i = 0; i < kDigestTensorWidth; i++) {
    n[i] = digest_number(fields[i], kFields[i].zero, kFields[i].name);
  }
  return {n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7], n[8], n[9], n[10]};
}

// Rows of a run, counted from the first row of its page, and what makes of them rows of the
// undivided cache.
struct DigestRows {
  uint64_t from, end, shift;
};

inline DigestRows digest_rows(const int32_t* run, uint64_t rows, uint64_t page_tokens) {
  const auto scaled = [&](uint64_t token) { return static_cast<unsigned __int128>(token) * rows; };
  const auto first = static_cast<uint64_t>(run[1]), tokens = static_cast<uint64_t>(run[2]);
  const auto from = static_cast<uint64_t>(scaled(first) / page_tokens);
  const auto end = static_cast<uint64_t>((scaled(first + tokens) + page_tokens - 1) / page_tokens);
  const auto row = static_cast<uint64_t>(scaled(static_cast<uint64_t>(run[3])) / page_tokens);
  return {from, end, row - from};
}

inline void check_digest_tensor(const DigestJob& job, uint64_t page_tokens,
                                const DigestTensor& tensor,
                                std::span<const DigestMemory> memories) {
  using Wide = unsigned __int128;
  const std::string region = "region " + std::to_string(tensor.region);
  if (tensor.region >= memories.size() || memories[tensor.region].bytes == nullptr) {
    throw DigestError(region + " is not registered");
  }
  const uint64_t size = memories[tensor.region].size;
  if (tensor.unit_bytes % tensor.element_bytes != 0) {
    throw DigestError("elementBytes must divide unitBytes (" + std::to_string(tensor.unit_bytes) +
                      "), got " + std::to_string(tensor.element_bytes));
  }
  // So that a row number fits 64 bits.
  constexpr uint64_t kMostRows = uint64_t{1} << 31;
  if (tensor.rows > kMostRows) {
    throw DigestError("rows per page must be at most 2^31, got " + std::to_string(tensor.rows));
  }
  if (page_tokens % tensor.rows != 0 && tensor.rows % page_tokens != 0) {
    throw DigestError("one of pageTokens (" + std::to_string(page_tokens) +
                      ") and rows per page must be a multiple of the other, got " +
                      std::to_string(tensor.rows) + " rows");
  }
  // Else cells would overlap, and the work would have no bound.
  if (tensor.units > size / tensor.unit_bytes ||
      tensor.rows > size / (tensor.units * tensor.unit_bytes)) {
    throw DigestError("a page of " + std::to_string(tensor.rows) + " rows of " +
                      std::to_string(tensor.units) + " units reaches outside " + region + " of " +
                      std::to_string(size) + " bytes");
  }
  const uint64_t row_tokens = std::max<uint64_t>(1, page_tokens / tensor.rows);
  // From the first byte of a page to the last one of its last row. Each factor is at most 2^53, and
  // the products are added in 128 bits.
  const Wide page = Wide(tensor.rows - 1) * tensor.row_stride +
                    Wide(tensor.units - 1) * tensor.unit_stride +
                    Wide(tensor.elements() - 1) * tensor.element_stride + tensor.element_bytes;
  for (size_t i = 0; i < job.runs.size(); i += kDigestRunWidth) {
    const int32_t* run = job.runs.data() + i;
    if (run[2] == 0) continue;
    const std::string which = "run " + std::to_string(i / kDigestRunWidth);
    if (static_cast<uint64_t>(run[1]) % row_tokens != 0 ||
        static_cast<uint64_t>(run[3]) % row_tokens != 0) {
      throw DigestError(which + " begins inside a row of " + std::to_string(row_tokens) +
                        " tokens");
    }
    const DigestRows rows = digest_rows(run, tensor.rows, page_tokens);
    const Wide last = Wide(static_cast<uint64_t>(run[0])) + (rows.end - 1) / tensor.rows;
    if (tensor.base + last * tensor.page_bytes + page > size) {
      throw DigestError(which + " reaches outside " + region + " of " + std::to_string(size) +
                        " bytes");
    }
  }
}

}  // namespace detail

// Checks a whole job before any of it is read, and returns its tensors. Throws DigestError.
inline std::vector<detail::DigestTensor> check_digest_job(const DigestJob& job,
                                                          std::span<const DigestMemory> memories) {
  const uint64_t page_tokens = detail::digest_number(job.page_tokens, false, "pageTokens");
  if (job.tensors.size() % kDigestTensorWidth != 0) {
    throw DigestError("tensors must be rows of 11 numbers");
  }
  if (job.runs.size() % kDigestRunWidth != 0) throw DigestError("runs must be rows of 4 numbers");
  if (job.keys.size() != job.tensors.size() / kDigestTensorWidth) {
    throw DigestError("there must be one key per tensor, got " + std::to_string(job.keys.size()) +
                      " for " + std::to_string(job.tensors.size() / kDigestTensorWidth));
  }
  for (const int32_t number : job.runs) {
    if (number < 0) {
      throw DigestError("runs must not hold negative numbers, got " + std::to_string(number));
    }
  }
  std::vector<detail::DigestTensor> tensors;
  for (size_t i = 0; i < job.tensors.size(); i += kDigestTensorWidth) {
    tensors.push_back(detail::digest_tensor(job.tensors.data() + i));
    detail::check_digest_tensor(job, page_tokens, tensors.back(), memories);
  }
  return tensors;
}

// One digest per tensor of a job that check_digest_job has passed. Ends early, with digests that
// mean nothing, when `stop` becomes true.
inline std::vector<Digest> digest(const DigestJob& job,
                                  std::span<const detail::DigestTensor> tensors,
                                  std::span<const DigestMemory> memories,
                                  const std::atomic<bool>& stop) {
  const auto page_tokens = static_cast<uint64_t>(job.page_tokens);
  std::vector<Digest> digests(tensors.size());
  std::vector<uint8_t> room;
  for (size_t t = 0; t < tensors.size(); t++) {
    const detail::DigestTensor& tensor = tensors[t];
    const uint8_t* base = memories[tensor.region].bytes + tensor.base;
    if (tensor.scattered()) room.resize(tensor.unit_bytes);
    uint8_t* scratch = tensor.scattered() ? room.data() : nullptr;
    const auto add = [&, scratch, digest = &digests[t]](const uint8_t* page, uint64_t row,
                                                        uint64_t unit, uint64_t logical) {
      const uint64_t coordinates = job.keys[t] + logical * detail::kRowFactor +
                                   (tensor.first_unit + unit) * detail::kUnitFactor;
      detail::add_cell(*digest, coordinates, tensor,
                       page + row * tensor.row_stride + unit * tensor.unit_stride, scratch);
    };
    for (size_t i = 0; i < job.runs.size(); i += kDigestRunWidth) {
      const int32_t* run = job.runs.data() + i;
      if (run[2] == 0) continue;
      const auto rows = detail::digest_rows(run, tensor.rows, page_tokens);
      // Page by page, and within a page in the order in which its cells lie.
      for (uint64_t q = rows.from; q < rows.end;) {
        const uint64_t number = q / tensor.rows, first = q % tensor.rows;
        const uint64_t end = std::min(tensor.rows, first + rows.end - q);
        const uint8_t* page = base + (static_cast<uint64_t>(run[0]) + number) * tensor.page_bytes;
        const uint64_t logical = number * tensor.rows + rows.shift;
        if (tensor.row_stride >= tensor.unit_stride) {
          for (uint64_t row = first; row < end; row++) {
            if (stop.load(std::memory_order_relaxed)) return digests;
            for (uint64_t unit = 0; unit < tensor.units; unit++)
              add(page, row, unit, logical + row);
          }
        } else {
          for (uint64_t unit = 0; unit < tensor.units; unit++) {
            if (stop.load(std::memory_order_relaxed)) return digests;
            for (uint64_t row = first; row < end; row++) add(page, row, unit, logical + row);
          }
        }
        q += end - first;
      }
    }
  }
  return digests;
}

}  // namespace kvx
