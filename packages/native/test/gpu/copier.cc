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

// Memory of the host that the GPU reaches.
struct HostPool {
  HostPool(const std::shared_ptr<gpu::Context>& context, size_t bytes)
      : bytes(bytes),
        data(static_cast<uint8_t*>(
            mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))),
        pinned(std::make_unique<gpu::HostMemory>(context, data, bytes)) {}
  ~HostPool() {
    pinned.reset();
    munmap(data, bytes);
  }
  gpu::Address address() const { return pinned->address(); }

  const size_t bytes;
  uint8_t* const data;
  std::unique_ptr<gpu::HostMemory> pinned;
};

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

TEST("pages of the host whose lanes lie together are right, also more of them than slabs hold") {
  const auto context = gpu::Context::open(0);
  gpu::Copier copier(context, {});
  constexpr uint64_t kRun = 16 << 10, kLanes = 64, kPages = 40, kApart = 100;
  constexpr uint64_t kPage = kRun * kLanes;
  const gpu::Allocation source(context, kPage * kPages);
  const HostPool host(context, kPage * kPages + kApart);
  const Data data = pattern(kPage * kPages, 11);
  write(*context, source.address(), data);
  gpu::Section section{{.path = gpu::Path::kToHost,
                        .run_bytes = kRun,
                        .source_page_bytes = kRun,
                        .destination_page_bytes = kPage},
                       {},
                       {}};
  for (uint64_t lane = 0; lane < kLanes; lane++) {
    section.lanes.push_back(
        {source.address() + lane * kRun * kPages, host.address() + lane * kRun});
  }
  for (uint32_t page = 0; page < kPages; page++)
    section.pages.push_back({page, page * 7 % uint32_t{kPages}});
  const gpu::Batch batch{section,
                         {{.path = gpu::Path::kToHost, .run_bytes = kApart},
                          {{source.address() + 1, host.address() + kPage * kPages}},
                          {{0, 0}}}};
  const std::atomic<bool> cancelled{false};
  for (int round = 0; round < 2; round++) {
    std::memset(host.data, 0, host.bytes);
    std::vector<gpu::Copier::Ticket> tickets;
    for (int i = 0; i < 2; i++) tickets.push_back(copier.submit(batch, {}, cancelled));
    std::string reason;
    for (const auto ticket : tickets) CHECK(settle(copier, ticket, reason) == State::kDone);
    for (const auto& [from, to] : section.pages) {
      for (uint64_t lane = 0; lane < kLanes; lane++) {
        CHECK(std::memcmp(host.data + to * kPage + lane * kRun,
                          data.data() + (lane * kPages + from) * kRun, kRun) == 0);
      }
    }
    CHECK(std::memcmp(host.data + kPage * kPages, data.data() + 1, kApart) == 0);
  }
  CHECK(copier.stop(std::chrono::seconds(5)));
}

TEST("what is gathered for the host waits for the event that it comes after") {
  const auto context = gpu::Context::open(0);
  gpu::Copier copier(context, {});
  const gpu::Context::Current current(*context);
  constexpr uint64_t kLane = 768 << 10;
  const gpu::Allocation source(context, 2 * kLane);
  const HostPool host(context, 2 * kLane);
  const gpu::Batch batch{
      {{.path = gpu::Path::kToHost, .run_bytes = kLane},
       {{source.address(), host.address() + kLane}, {source.address() + kLane, host.address()}},
       {{0, 0}}}};
  const std::atomic<bool> cancelled{false};
  const gpu::detail::Stream producer(*context, "TEST");
  const gpu::detail::Event event(*context, "TEST");
  for (const unsigned char value : {3, 4}) {
    for (int i = 0; i < 400; i++) {
      must(context->api().set_async(source.address(), 99, 2 * kLane, producer.get()));
    }
    must(context->api().set_async(source.address(), value, 2 * kLane, producer.get()));
    must(context->api().event_record(event.get(), producer.get()));
    const auto ticket = copier.submit(batch, {.event = event.get()}, cancelled);
    std::string reason;
    CHECK(settle(copier, ticket, reason) == State::kDone);
    CHECK(Data(host.data, host.data + 2 * kLane) == Data(2 * kLane, value));
  }
}

TEST("what is launched at once is between GPUs, one launch, alone and behind no slow call") {
  const auto context = gpu::Context::open(0);
  gpu::Copier copier(context, {});
  constexpr uint64_t kBytes = 64 << 10;
  const HostPool host(context, kBytes);
  const gpu::Allocation source(context, kBytes), target(context, kBytes);
  const Data data = pattern(kBytes, 21);
  write(*context, source.address(), data);
  const auto section = [&](gpu::Path path, gpu::Address to, uint64_t bytes) {
    return gpu::Section{{.path = path, .run_bytes = bytes}, {{source.address(), to}}, {{0, 0}}};
  };
  const gpu::Section within = section(gpu::Path::kSameGpu, target.address(), kBytes);
  CHECK(!copier.submit_now({section(gpu::Path::kToHost, host.address(), kBytes)}));
  CHECK(!copier.submit_now({within, section(gpu::Path::kSameGpu, target.address() + 1, 1)}));
  CHECK(!copier.submit_now({}));
  {
    const gpu::Context::Slow slow(*context);
    CHECK(!copier.submit_now({within}));
  }
  CHECK(read(*context, target.address(), kBytes) == Data(kBytes, 0));
  const auto ticket = copier.submit_now({within});
  CHECK(ticket);
  std::string reason;
  CHECK(settle(copier, *ticket, reason) == State::kDone);
  copier.release(*ticket);
  CHECK(read(*context, target.address(), kBytes) == data);
}

TEST("copies that are launched at once and in the usual way, by threads, all end and are right") {
  const auto context = gpu::Context::open(0);
  gpu::Copier copier(context, {});
  constexpr uint64_t kRun = 64, kRuns = 400;
  constexpr int kThreads = 3, kEach = 60;
  const gpu::Allocation source(context, kRun * kRuns), target(context, kRun * kRuns * kThreads);
  const Data data = pattern(kRun * kRuns, 9);
  write(*context, source.address(), data);
  std::atomic<int> at_once{0}, wrong{0};
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < kThreads; t++) {
    threads.emplace_back([&, t] {
      const std::atomic<bool> cancelled{false};
      const gpu::Context::Current current(*context);
      gpu::Section section{{.path = gpu::Path::kSameGpu, .run_bytes = kRun}, {}, {{0, 0}}};
      for (uint64_t i = 0; i < kRuns; i++) {
        section.lanes.push_back(
            {source.address() + i * kRun, target.address() + (t * kRuns + (kRuns - 1 - i)) * kRun});
      }
      for (int i = 0; i < kEach; i++) {
        auto ticket = copier.submit_now({section});
        if (ticket) at_once++;
        if (!ticket) ticket = copier.submit({section}, {}, cancelled);
        std::string reason;
        if (settle(copier, *ticket, reason) != State::kDone) wrong++;
        copier.release(*ticket);
      }
    });
  }
  for (auto& thread : threads) thread.join();
  CHECK(wrong == 0 && at_once > 0);
  const Data found = read(*context, target.address(), kRun * kRuns * kThreads);
  for (uint64_t t = 0; t < kThreads; t++) {
    for (uint64_t i = 0; i < kRuns; i++) {
      CHECK(std::memcmp(found.data() + (t * kRuns + (kRuns - 1 - i)) * kRun, data.data() + i * kRun,
                        kRun) == 0);
    }
  }
  CHECK(copier.stop(std::chrono::seconds(5)));
}

TEST("a batch of nothing is done at once") {
  const auto context = gpu::Context::open(0);
  gpu::Copier copier(context, {});
  copy_now(copier, {});
}
