#include "kvx/gpu/batch.h"

#include <map>

#include "kvx/gpu/launch.h"
#include "plans.h"

namespace {

constexpr gpu::Address kSource = uint64_t{1} << 32, kDestination = uint64_t{1} << 40;

gpu::Place source_of(uint32_t region) {
  return {kSource + region * (uint64_t{1} << 24), 0};
}
gpu::Place destination_of(uint32_t region) {
  return {kDestination + region * (uint64_t{1} << 24), 0};
}

// Every byte that is written, and where it comes from.
using Moves = std::map<gpu::Address, gpu::Address>;

Moves moves_of(const gpu::Batch& batch) {
  Moves moves;
  for (const auto& [shape, lanes, pages] : batch) {
    for (const auto& lane : lanes) {
      for (const auto& page : pages) {
        for (uint64_t r = 0; r < shape.runs; r++) {
          for (uint64_t i = 0; i < shape.run_bytes; i++) {
            const auto to = lane.destination + page.destination * shape.destination_page_bytes +
                            r * shape.destination_stride + i;
            CHECK(moves.count(to) == 0);
            moves[to] =
                lane.source + page.source * shape.source_page_bytes + r * shape.source_stride + i;
          }
        }
      }
    }
  }
  return moves;
}

Moves moves_of(const std::vector<Segment>& segments) {
  Moves moves;
  for (const auto& segment : segments) {
    for (uint64_t i = 0; i < segment.bytes; i++) {
      moves[destination_of(segment.destination_region).address + segment.destination_offset + i] =
          source_of(segment.source_region).address + segment.source_offset + i;
    }
  }
  return moves;
}

}  // namespace

TEST("a batch of a plan, and one of its segments, move the bytes that the plan says") {
  for (uint64_t seed = 0; seed < 16; seed++) {
    const auto made = random_plan(seed, seed % 2 == 0 ? 1 : 16);
    const auto segments = segments_of(made.plan);
    const Moves expected = moves_of(segments);
    CHECK(moves_of(gpu::batch_of(made.plan, source_of, destination_of, 0)) == expected);
    CHECK(moves_of(gpu::batch_of(segments, source_of, destination_of, 0)) == expected);
  }
}

TEST("lanes of one shape are one section, whatever their number") {
  Plan plan;
  for (int lane = 0; lane < 64; lane++) {
    for (const double field :
         {0.0, 0.0, lane * 65536.0, lane * 65536.0, 4096.0, 4096.0, 4096.0, 1.0, 0.0, 0.0}) {
      plan.lanes.push_back(field);
    }
  }
  plan.groups = {3, 5, 2, 9, 1, 1};
  plan.blocks = {0, 2, 0, 64};
  const auto batch = gpu::batch_of(plan, source_of, destination_of, 0);
  CHECK(batch.size() == 1 && batch[0].lanes.size() == 64);
  CHECK((batch[0].pages == std::vector<gpu::PagePair>{{3, 5}, {4, 6}, {9, 1}}));
  const auto launches = gpu::detail::launches_of(batch);
  CHECK(launches.size() == 1 && launches[0].word == 16 && launches[0].units == 64 * 3);
}

TEST("segments of many lengths with a common part are cut to it, and are one section") {
  std::vector<Segment> segments;
  uint64_t at = 0;
  for (uint64_t pages = 1; pages <= 30; pages++) {
    segments.push_back({0, 0, at, at, pages * 8192});
    at += pages * 8192;
  }
  const auto batch = gpu::batch_of(segments, source_of, destination_of, 0);
  CHECK(batch.size() == 1 && batch[0].shape.run_bytes == 8192 && batch[0].lanes.size() == 465);
}

TEST("the path tells where bytes come from and go to") {
  const gpu::Place host{0, gpu::Place::kHost}, mine{0, 1}, other{0, 2};
  CHECK(gpu::path_of(mine, mine, 1) == gpu::Path::kSameGpu);
  CHECK(gpu::path_of(mine, other, 1) == gpu::Path::kPeer);
  CHECK(gpu::path_of(other, other, 1) == gpu::Path::kPeer);
  CHECK(gpu::path_of(mine, host, 1) == gpu::Path::kToHost);
  CHECK(gpu::path_of(host, mine, 1) == gpu::Path::kFromHost);
}

TEST("how long a batch takes is expected of its longest path") {
  const auto section = [](gpu::Path path, uint64_t bytes) {
    return gpu::Section{
        {.path = path, .run_bytes = bytes / 8, .runs = 2}, {{0, 0}, {1, 1}}, {{0, 0}, {1, 1}}};
  };
  const auto microseconds = [](const gpu::Batch& batch) {
    return gpu::expected_time(batch).count();
  };
  CHECK(microseconds({}) == 0);
  CHECK(microseconds({section(gpu::Path::kSameGpu, 75'000'000)}) == 100);
  CHECK(microseconds({section(gpu::Path::kPeer, 35'000'000)}) == 100);
  CHECK(microseconds({section(gpu::Path::kToHost, 52'000'000),
                      section(gpu::Path::kToHost, 52'000'000),
                      section(gpu::Path::kSameGpu, 75'000'000)}) == 2000);
}

TEST("the word of a launch divides every address and length") {
  const auto word = [](uint64_t address, uint64_t bytes) {
    return gpu::detail::word_of(
        {{.run_bytes = bytes}, {{kSource, kDestination + address}}, {{0, 0}}});
  };
  CHECK(word(0, 64) == 16 && word(16, 48) == 16);
  CHECK(word(8, 64) == 8 && word(0, 24) == 8);
  CHECK(word(4, 64) == 4 && word(0, 12) == 4);
  CHECK(word(2, 64) == 1 && word(0, 63) == 1);
}

TEST("a batch that is too large for one launch is cut, and nothing of it is lost or doubled") {
  gpu::Section section{
      {.run_bytes = 4096, .source_page_bytes = 4096, .destination_page_bytes = 4096}, {}, {}};
  for (uint64_t lane = 0; lane < 100; lane++) section.lanes.push_back({lane << 40, lane << 40});
  for (uint32_t page = 0; page < 400'000; page++) section.pages.push_back({page, page});
  const gpu::Batch batch{section};
  uint64_t bytes = 0;
  for (const auto& launch : gpu::detail::launches_of(batch)) {
    CHECK(launch.table_bytes <= gpu::detail::kMostTableBytes);
    CHECK(launch.slices.size() <= gpu::detail::kMostSections);
    for (const auto& slice : launch.slices) {
      bytes += slice.lanes.size() * slice.pages.size() * 4096;
    }
  }
  CHECK(bytes == 100ull * 400'000 * 4096);
}
