// What it costs to check a plan and to expand it into contiguous pieces, without anything that
// moves them. Reads from its standard input three counts (u64) and as many lanes (double), groups
// and blocks (int32), and how often to do it (u64); prints, a line each time, the pieces and the
// nanoseconds of processor time of both steps.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <vector>

#include "kvx/plan.h"

namespace {

template <typename T>
void read(T* into, size_t count) {
  if (count > 0 && std::fread(into, sizeof(T), count, stdin) != count) std::exit(2);
}

template <typename T>
std::vector<T> numbers(uint64_t count) {
  std::vector<T> list(count);
  read(list.data(), count);
  return list;
}

double nanoseconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return 1e9 * static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec);
}

}  // namespace

int main() {
  uint64_t counts[4];
  read(counts, 4);
  kvx::Plan plan;
  plan.lanes = numbers<double>(counts[0]);
  plan.groups = numbers<int32_t>(counts[1]);
  plan.blocks = numbers<int32_t>(counts[2]);
  // Regions that hold whatever a plan names: their sizes are compared with, no byte of them is
  // touched.
  const std::vector<uint64_t> regions(65536, uint64_t{1} << 36);
  for (uint64_t round = 0; round < counts[3]; round++) {
    uint64_t pieces = 0, bytes = 0;
    const double start = nanoseconds();
    const uint64_t checked = kvx::check_plan(plan, regions, regions);
    const double middle = nanoseconds();
    kvx::expand_plan(plan, 0, [&](const kvx::Segment& segment) {
      pieces++;
      bytes += segment.bytes;
      // As much as a driver that queues a piece has to look at.
      asm volatile("" : : "r"(&segment) : "memory");
      return true;
    });
    const double end = nanoseconds();
    if (bytes != checked) return 1;
    std::printf("%llu %f %f\n", static_cast<unsigned long long>(pieces), middle - start,
                end - middle);
  }
  return 0;
}
