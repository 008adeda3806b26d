#include "kvx/gpu/copier.h"

#include <sys/mman.h>

#include "plans.h"

namespace {

struct Regions {
  std::vector<std::unique_ptr<gpu::Allocation>> kept;
  std::vector<gpu::Address> at;
};

Regions two_regions(const std::shared_ptr<gpu::Context>& context, uint64_t bytes) {
  Regions regions;
  for (int i = 0; i < 2; i++) {
    regions.kept.push_back(std::make_unique<gpu::Allocation>(context, bytes));
    regions.at.push_back(regions.kept.back()->address());
  }
  return regions;
}

}  // namespace

TEST("plans of every alignment are copied by the kernel as the processor copies them") {
  const auto context = gpu::Context::open(0);
  gpu::Copier copier(context, {});
  uint64_t seed = 100;
  for (const uint64_t word : {16, 8, 4, 1}) {
    for (int round = 0; round < 8; round++, seed++) {
      const auto made = random_plan(seed, word);
      const Regions from = two_regions(context, made.source_bytes);
      const Regions to = two_regions(context, made.source_bytes);
      std::vector<Data> source, expected;
      for (uint64_t region = 0; region < 2; region++) {
        source.push_back(pattern(made.source_bytes, seed * 2 + region));
        expected.emplace_back(made.source_bytes, 0);
        write(*context, from.at[region], source.back());
      }
      const auto segments = segments_of(made.plan);
      for (const auto& segment : segments) {
        std::memcpy(expected[segment.destination_region].data() + segment.destination_offset,
                    source[segment.source_region].data() + segment.source_offset, segment.bytes);
      }
      const auto source_place = [&](uint32_t region) { return gpu::Place{from.at[region], 0}; };
      const auto target_place = [&](uint32_t region) { return gpu::Place{to.at[region], 0}; };
      for (const bool by_plan : {true, false}) {
        for (const auto at : to.at) write(*context, at, Data(made.source_bytes, 0));
        copy_now(copier, by_plan ? gpu::batch_of(made.plan, source_place, target_place, 0)
                                 : gpu::batch_of(segments, source_place, target_place, 0));
        for (uint64_t region = 0; region < 2; region++) {
          CHECK(read(*context, to.at[region], made.source_bytes) == expected[region]);
        }
      }
    }
  }
}

TEST("a copy waits for the event, or the stream, that it comes after") {
  const auto context = gpu::Context::open(0);
  gpu::Copier copier(context, {});
  const gpu::Context::Current current(*context);
  const gpu::Allocation source(context, 1 << 20), target(context, 1 << 20);
  const std::atomic<bool> cancelled{false};
  const gpu::Batch batch{{{.path = gpu::Path::kSameGpu, .run_bytes = 1 << 20},
                          {{source.address(), target.address()}},
                          {{0, 0}}}};
  for (const bool by_stream : {false, true}) {
    // The producer's stream waits for a host that fills memory slowly: 400 fills, then the value.
    const gpu::detail::Stream producer(*context, "TEST");
    const gpu::detail::Event event(*context, "TEST");
    const unsigned char value = by_stream ? 2 : 1;
    for (int i = 0; i < 400; i++) {
      must(context->api().set_async(source.address(), 99, 1 << 20, producer.get()));
    }
    must(context->api().set_async(source.address(), value, 1 << 20, producer.get()));
    must(context->api().event_record(event.get(), producer.get()));
    const auto after =
        by_stream ? gpu::After{.stream = producer.get()} : gpu::After{.event = event.get()};
    const auto ticket = copier.submit(batch, after, cancelled);
    std::string reason;
    CHECK(settle(copier, ticket, reason) == State::kDone);
    copier.release(ticket);
    CHECK(read(*context, target.address(), 1 << 20) == Data(1 << 20, value));
  }
}

TEST("many copies at once, with more tables than there is room for, all end and are all right") {
  const auto context = gpu::Context::open(0);
  gpu::Copier copier(context, {});
  constexpr uint64_t kRun = 64, kRuns = 30'000;
  const gpu::Allocation source(context, kRun * kRuns), target(context, kRun * kRuns * 2);
  const Data data = pattern(kRun * kRuns, 9);
  write(*context, source.address(), data);
  gpu::Section section{{.path = gpu::Path::kSameGpu, .run_bytes = kRun}, {}, {{0, 0}}};
  for (uint64_t i = 0; i < kRuns; i++) {
    section.lanes.push_back({source.address() + i * kRun, target.address() + 2 * i * kRun});
  }
  const std::atomic<bool> cancelled{false};
  std::vector<gpu::Copier::Ticket> tickets;
  for (int i = 0; i < 12; i++) tickets.push_back(copier.submit({section}, {}, cancelled));
  std::string reason;
  for (const auto ticket : tickets) CHECK(settle(copier, ticket, reason) == State::kDone);
  const Data found = read(*context, target.address(), kRun * kRuns * 2);
  for (uint64_t i = 0; i < kRuns; i++) {
    CHECK(std::memcmp(found.data() + 2 * i * kRun, data.data() + i * kRun, kRun) == 0);
  }
  CHECK(copier.stop(std::chrono::seconds(5)));
}

TEST("copies of different paths in one batch end together") {
  const auto context = gpu::Context::open(0);
  gpu::Copier copier(context, {});
  constexpr uint64_t kBytes = 64 << 10;
  void* at = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  const gpu::HostMemory host(context, at, kBytes);
  const gpu::Allocation source(context, kBytes), target(context, kBytes);
  write(*context, source.address(), pattern(kBytes, 3));
  copy_now(copier, {{{.path = gpu::Path::kSameGpu, .run_bytes = kBytes},
                     {{source.address(), target.address()}},
                     {{0, 0}}},
                    {{.path = gpu::Path::kToHost, .run_bytes = kBytes},
                     {{source.address(), host.address()}},
                     {{0, 0}}}});
  CHECK(read(*context, target.address(), kBytes) == pattern(kBytes, 3));
  CHECK(std::memcmp(at, pattern(kBytes, 3).data(), kBytes) == 0);
}

TEST("a batch of nothing is done at once") {
  const auto context = gpu::Context::open(0);
  gpu::Copier copier(context, {});
  copy_now(copier, {});
}
