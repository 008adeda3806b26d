// What kernels/kvx.cu does, on the processor: the same units, warps and addresses.
#include <algorithm>
#include <cstring>
#include <vector>

#include "fake.h"
#include "kvx/digest.h"
#include "kvx/gpu/digest.h"
#include "kvx/gpu/launch.h"

using namespace fake;

namespace {

using kvx::gpu::detail::DigestRun;
using kvx::gpu::detail::LaunchOnGpu;
using kvx::gpu::detail::SectionOnGpu;

constexpr Result kIllegalAddress = 700, kMisaligned = 716;

Result copy(int gpu, unsigned word, unsigned grid, unsigned block, const LaunchOnGpu& launch) {
  const auto* lanes = reinterpret_cast<const LanePair*>(launch.lanes);
  const auto* pages = reinterpret_cast<const PagePair*>(launch.pages);
  const unsigned warps = grid * (block / 32);
  std::vector<bool> done(launch.units);
  for (unsigned warp = 0; warp < warps; warp++) {
    const unsigned first = warp % grid + grid * (warp / grid);
    for (unsigned unit = first; unit < launch.units; unit += warps) {
      if (done[unit]) return kInvalid;
      done[unit] = true;
      unsigned s = 0;
      while (s + 1 < launch.sections_used && unit >= launch.sections[s + 1].first_unit) s++;
      const SectionOnGpu& section = launch.sections[s];
      const unsigned in_section = unit - section.first_unit;
      const unsigned lane = in_section / section.units_per_lane;
      const LanePair& bases = lanes[section.first_lane + lane];
      const unsigned begin = in_section % section.units_per_lane * 256;
      const unsigned end = std::min(begin + 256, section.words_per_lane);
      for (unsigned at = begin, count = 0; at < end; at += count) {
        const unsigned run = at / section.run_words, in_run = at % section.run_words;
        count = std::min(end - at, section.run_words - in_run);
        const PagePair& pair = pages[section.first_page + run / section.runs];
        const unsigned in_page = run % section.runs;
        const Address from = bases.source + pair.source * section.source_page_bytes +
                             in_page * section.source_stride + uint64_t{in_run} * word;
        const Address to = bases.destination + pair.destination * section.destination_page_bytes +
                           in_page * section.destination_stride + uint64_t{in_run} * word;
        const uint64_t bytes = uint64_t{count} * word;
        if (from % word != 0 || to % word != 0) return kMisaligned;
        if (!reachable(gpu, from, bytes) || !reachable(gpu, to, bytes)) return kIllegalAddress;
        std::memcpy(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), bytes);
      }
    }
  }
  return kOk;
}

Result digest(int gpu, const DigestRun& run, Address result) {
  using kvx::detail::kDigestBlockBytes;
  kvx::Digest sum;
  std::vector<uint8_t> unit_bytes(run.unit_bytes);
  for (uint64_t n = 0; n < run.rows; n++) {
    const uint64_t row = run.first_row + n;
    for (uint64_t unit = 0; unit < run.units; unit++) {
      const Address cell = run.base + row / run.rows_per_page * run.page_bytes +
                           row % run.rows_per_page * run.row_stride + unit * run.unit_stride;
      for (uint64_t i = 0; i < run.unit_bytes; i++) {
        const Address from =
            cell + i / run.element_bytes * run.element_stride + i % run.element_bytes;
        if (i % run.element_bytes == 0 && !reachable(gpu, from, run.element_bytes)) {
          return kIllegalAddress;
        }
        unit_bytes[i] = *reinterpret_cast<const uint8_t*>(from);
      }
      const uint64_t coordinates =
          run.coordinates + n * kvx::detail::kRowFactor + unit * run.unit_factor;
      for (uint64_t from = 0; from < run.unit_bytes; from += kDigestBlockBytes) {
        kvx::detail::add_block(sum, coordinates, from / kDigestBlockBytes, unit_bytes.data() + from,
                               std::min(kDigestBlockBytes, run.unit_bytes - from));
      }
    }
  }
  if (!reachable(gpu, result, sizeof sum)) return kIllegalAddress;
  auto* out = reinterpret_cast<uint64_t*>(result);
  out[0] += sum.first;
  out[1] += sum.second;
  return kOk;
}

}  // namespace

std::function<Result()> fake::kernel(const std::string& name, int gpu, unsigned grid,
                                     unsigned block, void** parameters) {
  if (name.starts_with("kvx_copy_")) {
    const auto launch = *static_cast<const LaunchOnGpu*>(parameters[0]);
    const auto word = static_cast<unsigned>(std::stoul(name.substr(9)));
    return [=] { return copy(gpu, word, grid, block, launch); };
  }
  if (name == "kvx_digest") {
    const auto run = *static_cast<const DigestRun*>(parameters[0]);
    const auto result = *static_cast<const Address*>(parameters[1]);
    return [=] { return digest(gpu, run, result); };
  }
  return nullptr;
}
