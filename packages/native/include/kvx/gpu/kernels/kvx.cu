// The kernels of kvx/gpu/. kvx.ptx is made of this file by tools/gpu/ptx.mjs.

// Tables come from pinned host memory: batch.h says what they mean.
struct Lane {
  unsigned long long source, destination;
};
struct Pages {
  unsigned source, destination;
};
// As gpu::detail::SectionOnGpu (launch.h). Counts are in words of the kernel's variant.
struct Section {
  unsigned long long source_page_bytes, destination_page_bytes;
  unsigned long long source_stride, destination_stride;
  unsigned first_unit;      // of the launch: units are numbered through all sections
  unsigned units_per_lane;  // of 256 words, the last one of a lane may hold less
  unsigned words_per_lane;  // of all its pages
  unsigned run_words, runs;
  unsigned first_lane;
  unsigned long long first_page;
};
constexpr unsigned kMostSections = 16;
struct Launch {
  Section sections[kMostSections];
  unsigned sections_used, units;
  const Lane* lanes;
  const Pages* pages;
};

namespace {

constexpr unsigned kWordsPerUnit = 256, kWordsPerThread = 8;

// Bytes of a source are read once: they must not push out what the model keeps in the cache.
__device__ __forceinline__ uint4 load(const uint4* from) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from));
  return v;
}
template <typename Word>
__device__ __forceinline__ Word load(const Word* from) {
  return *from;
}

// A warp moves a unit. `word` counts from the first byte of the lane's first page, as if pages and
// their runs lay one after another.
template <typename Word>
__device__ __forceinline__ void copy_unit(const Section& section, const Lane& lane,
                                          const Pages* pages, unsigned word, unsigned thread) {
  const auto place = [&](unsigned at, const Word*& from, Word*& to) {
    const unsigned run = at / section.run_words, in_run = at - run * section.run_words;
    const unsigned page = section.runs == 1 ? run : run / section.runs;
    const unsigned in_page = run - page * section.runs;
    const Pages pair = pages[page];
    from = reinterpret_cast<const Word*>(lane.source + pair.source * section.source_page_bytes +
                                         in_page * section.source_stride) +
           in_run;
    to = reinterpret_cast<Word*>(lane.destination +
                                 pair.destination * section.destination_page_bytes +
                                 in_page * section.destination_stride) +
         in_run;
    return in_run;
  };
  Word words[kWordsPerThread];
  const Word* from;
  Word* to;
  const unsigned in_run = place(word, from, to);
  if (in_run + kWordsPerUnit <= section.run_words) {
    // Eight independent loads, then eight stores: what hides the latency with few processors.
#pragma unroll
    for (unsigned k = 0; k < kWordsPerThread; k++) words[k] = load(from + thread + 32 * k);
#pragma unroll
    for (unsigned k = 0; k < kWordsPerThread; k++) to[thread + 32 * k] = words[k];
    return;
  }
  // Half as many at a time: each has its own address, and registers are few.
  constexpr unsigned kHalf = kWordsPerThread / 2;
#pragma unroll 1
  for (unsigned half = 0; half < 2; half++) {
    Word* targets[kHalf];
#pragma unroll
    for (unsigned k = 0; k < kHalf; k++) {
      const unsigned at = word + thread + 32 * (half * kHalf + k);
      targets[k] = nullptr;
      if (at < section.words_per_lane) {
        place(at, from, targets[k]);
        words[k] = load(from);
      }
    }
#pragma unroll
    for (unsigned k = 0; k < kHalf; k++) {
      if (targets[k] != nullptr) *targets[k] = words[k];
    }
  }
}

template <typename Word>
__device__ __forceinline__ void copy(const Launch& launch) {
  const unsigned thread = threadIdx.x & 31, warps = gridDim.x * (blockDim.x >> 5);
  unsigned s = 0;
  // Units go round the blocks first, so that every multiprocessor has its part of the rest.
  for (unsigned u = blockIdx.x + gridDim.x * (threadIdx.x >> 5); u < launch.units; u += warps) {
    while (s + 1 < launch.sections_used && u >= launch.sections[s + 1].first_unit) s++;
    const Section& section = launch.sections[s];
    const unsigned unit = u - section.first_unit, lane = unit / section.units_per_lane;
    copy_unit<Word>(section, launch.lanes[section.first_lane + lane],
                    launch.pages + section.first_page,
                    (unit - lane * section.units_per_lane) * kWordsPerUnit, thread);
  }
}

}  // namespace

#define KVX_COPY(name, Word)                                                   \
  extern "C" __global__ void __launch_bounds__(1024, 1)                        \
      name(const __grid_constant__ Launch launch) {                            \
    copy<Word>(launch);                                                        \
  }
KVX_COPY(kvx_copy_16, uint4)
KVX_COPY(kvx_copy_8, unsigned long long)
KVX_COPY(kvx_copy_4, unsigned)
KVX_COPY(kvx_copy_1, unsigned char)

// ---- the digest of kvx/digest.h

namespace {

constexpr unsigned kBlockBytes = 1024;
constexpr unsigned long long kRowFactor = 0x9E3779B97F4A7C15, kBlockFactor = 0x165667B19E3779F9,
                             kBytesFactor = 0x27D4EB2F165667C5;

__device__ __forceinline__ unsigned long long mix(unsigned long long x) {
  constexpr unsigned long long kFactor = 0xD6E8FEB86659FD93;
  x ^= x >> 32;
  x *= kFactor;
  x ^= x >> 32;
  x *= kFactor;
  x ^= x >> 32;
  return x;
}

}  // namespace

// As gpu::detail::DigestRun (launch.h): the rows of one run of pages for one tensor.
struct DigestRun {
  unsigned long long base;         // of the run's first page
  unsigned long long page_bytes;
  unsigned long long first_row;    // counted from the first row of that page
  unsigned long long coordinates;  // of that row and the first unit; modulo 2^64
  unsigned long long rows;         // how many
  unsigned long long rows_per_page, units;
  unsigned long long row_stride, unit_stride, element_stride;
  unsigned long long unit_bytes, element_bytes;
  unsigned long long unit_factor;
};

// A warp hashes a block of 1024 bytes at a time, and adds what it has found at its end.
extern "C" __global__ void kvx_digest(const __grid_constant__ DigestRun run,
                                      unsigned long long* result) {
  const unsigned thread = threadIdx.x & 31;
  const unsigned long long warps = (unsigned long long)gridDim.x * (blockDim.x >> 5);
  const unsigned long long blocks = (run.unit_bytes + kBlockBytes - 1) / kBlockBytes;
  const unsigned long long total = run.rows * run.units * blocks;
  unsigned long long first = 0, second = 0;
  for (unsigned long long i = blockIdx.x * (unsigned long long)(blockDim.x >> 5) + (threadIdx.x >> 5);
       i < total; i += warps) {
    const unsigned long long block = i % blocks, cell = i / blocks;
    const unsigned long long unit = cell % run.units, n = cell / run.units;
    const unsigned long long row = run.first_row + n, page = row / run.rows_per_page;
    const unsigned char* at = reinterpret_cast<const unsigned char*>(
        run.base + page * run.page_bytes + (row - page * run.rows_per_page) * run.row_stride +
        unit * run.unit_stride);
    const unsigned long long begin = block * kBlockBytes;
    const unsigned count = (unsigned)min((unsigned long long)kBlockBytes, run.unit_bytes - begin);
    const auto byte = [&](unsigned long long offset) -> unsigned long long {
      const unsigned long long element = offset / run.element_bytes;
      return at[element * run.element_stride + (offset - element * run.element_bytes)];
    };
    const bool whole = run.element_stride == run.element_bytes &&
                       (reinterpret_cast<unsigned long long>(at) & 7) == 0;
    unsigned long long low = 0, high = 0;
    for (unsigned j = thread; j * 16 < count; j += 32) {
      unsigned long long words[2] = {};
      for (unsigned w = 0; w < 2; w++) {
        const unsigned from = j * 16 + w * 8;
        if (whole && from + 8 <= count) {
          words[w] = *reinterpret_cast<const unsigned long long*>(at + begin + from);
        } else {
          for (unsigned b = 0; b < 8 && from + b < count; b++) {
            words[w] |= byte(begin + from + b) << (8 * b);
          }
        }
        words[w] += mix((2 * j + w + 1) * kRowFactor);
      }
      low += words[0] * words[1];
      high += __umul64hi(words[0], words[1]);
    }
    for (unsigned step = 16; step > 0; step >>= 1) {
      low += __shfl_xor_sync(0xffffffff, low, step);
      high += __shfl_xor_sync(0xffffffff, high, step);
    }
    const unsigned long long seed = mix(run.coordinates + n * kRowFactor + unit * run.unit_factor +
                                        block * kBlockFactor + count * kBytesFactor);
    const unsigned long long x = mix(low + seed), y = mix(high + x);
    first += y;
    second += mix(x ^ y);
  }
  if (thread == 0) {
    atomicAdd(result, first);
    atomicAdd(result + 1, second);
  }
}
