#include "kvx/gpu/pieces.h"

#include <map>
#include <random>

#include "plans.h"

namespace {

constexpr gpu::Address kSource = uint64_t{1} << 32, kHost = uint64_t{1} << 40;

using gpu::detail::PieceLimits;
// Every byte that is written, and where it comes from.
using Moves = std::map<gpu::Address, gpu::Address>;

void move(Moves& moves, gpu::Address to, gpu::Address from, uint64_t bytes) {
  for (uint64_t i = 0; i < bytes; i++) {
    CHECK(moves.count(to + i) == 0);
    moves[to + i] = from + i;
  }
}

Moves moves_of(const gpu::Batch& batch) {
  Moves moves;
  for (const auto& [shape, lanes, pages] : batch) {
    for (const auto& lane : lanes) {
      for (const auto& page : pages) {
        for (uint64_t r = 0; r < shape.runs; r++) {
          move(moves,
               lane.destination + page.destination * shape.destination_page_bytes +
                   r * shape.destination_stride,
               lane.source + page.source * shape.source_page_bytes + r * shape.source_stride,
               shape.run_bytes);
        }
      }
    }
  }
  return moves;
}

// What a division moves in the end, with all that is said of slabs and pieces held.
Moves moves_of(const gpu::detail::Division& division, const PieceLimits& limits) {
  Moves moves = moves_of(division.rest);
  for (const auto& piece : division.pieces) {
    CHECK(piece.bytes >= limits.least);
    move(moves, piece.destination, piece.source, piece.bytes);
  }
  for (const auto& load : division.loads) {
    size_t tables = 0;
    for (const auto& section : load.gather) {
      CHECK(section.shape.path == gpu::Path::kSameGpu);
      tables += section.lanes.size() * sizeof(gpu::LanePair);
      tables += section.pages.size() * sizeof(gpu::PagePair);
    }
    CHECK(tables <= limits.tables);
    const Moves slab = moves_of(load.gather);
    CHECK(slab.rbegin()->first < limits.slab);
    size_t emptied = 0;
    for (const auto& piece : load.pieces) {
      emptied += piece.bytes;
      for (uint64_t i = 0; i < piece.bytes; i++) {
        move(moves, piece.destination + i, slab.at(piece.source + i), 1);
      }
    }
    CHECK(emptied == slab.size());
  }
  return moves;
}

// `lanes` of so many bytes, all of a page together at the host, and pages of the GPU's pool in any
// order.
gpu::Section together(uint64_t lanes, uint64_t bytes, std::vector<gpu::PagePair> pages) {
  gpu::Section section{{.path = gpu::Path::kToHost,
                        .run_bytes = bytes,
                        .source_page_bytes = bytes,
                        .destination_page_bytes = bytes * lanes},
                       {},
                       std::move(pages)};
  for (uint64_t lane = 0; lane < lanes; lane++) {
    section.lanes.push_back({kSource + (lane << 24), kHost + lane * bytes});
  }
  return section;
}

constexpr uint64_t kMiB = uint64_t{1} << 20;

}  // namespace

TEST("lanes of a page that lie together at the host are gathered, and written as whole pages") {
  const auto division = gpu::detail::divide({together(64, 32 << 10, {{5, 2}, {1, 9}, {7, 3}})});
  CHECK(division.rest.empty() && division.pieces.empty() && division.loads.size() == 1);
  const auto& [gather, pieces] = division.loads[0];
  CHECK(gather.size() == 1 && gather[0].lanes.size() == 64 && gather[0].pages.size() == 3);
  // Pages 2 and 3 are neighbours.
  CHECK(pieces.size() == 2 && pieces[0].bytes == 4 * kMiB && pieces[1].bytes == 2 * kMiB);
  CHECK(pieces[0].destination == kHost + 2 * 2 * kMiB && pieces[0].source == 0);
  CHECK(pieces[1].destination == kHost + 9 * 2 * kMiB && pieces[1].source == 4 * kMiB);
}

TEST("pages that are too small go with their neighbours, or by the kernel when they have none") {
  const auto division = gpu::detail::divide(
      {together(64, 4 << 10, {{0, 4}, {1, 5}, {2, 7}, {3, 6}, {4, 9}, {5, 11}})});
  CHECK(division.loads.size() == 1 && division.loads[0].pieces.size() == 1);
  CHECK(division.loads[0].pieces[0].bytes == kMiB);
  CHECK(division.rest.size() == 1 && division.rest[0].lanes.size() == 64);
  CHECK((division.rest[0].pages == std::vector<gpu::PagePair>{{4, 9}, {5, 11}}));
}

TEST("lanes that lie apart at the host, and what does not go there, are left to the kernel") {
  gpu::Section apart = together(64, 64 << 10, {{0, 0}, {1, 1}, {2, 2}});
  apart.shape.destination_page_bytes = 64 << 10;
  for (auto& lane : apart.lanes) lane.destination = kHost + (lane.source - kSource);
  gpu::Section strided = together(1, kMiB, {{0, 0}});
  strided.shape = {.path = gpu::Path::kToHost,
                   .run_bytes = 1024,
                   .runs = 1024,
                   .source_stride = 1024,
                   .destination_stride = 2048};
  CHECK(gpu::detail::divide({apart}).empty());
  CHECK(gpu::detail::divide({strided}).empty());
  for (const auto path : {gpu::Path::kSameGpu, gpu::Path::kPeer, gpu::Path::kFromHost}) {
    gpu::Section elsewhere = together(64, 32 << 10, {{5, 2}});
    elsewhere.shape.path = path;
    CHECK(gpu::detail::divide({elsewhere}).empty());
  }
}

TEST("lanes that do not make a large piece stay one section, however many they are") {
  gpu::Section section = together(64, 16 << 10, {{0, 3}, {1, 8}});
  for (size_t lane = 0; lane < 64; lane++) section.lanes[lane].destination += lane * 16;
  const gpu::Section large = together(1, 2 * kMiB, {{4, 4}});
  const auto division = gpu::detail::divide({section, large});
  CHECK(division.pieces.size() == 1 && division.loads.empty());
  CHECK(division.rest.size() == 1 && division.rest[0].lanes.size() == 64);
}

TEST("what lies in one large piece on both sides is not gathered") {
  const auto division = gpu::detail::divide({together(1, 40 * kMiB, {{0, 3}, {1, 0}})});
  CHECK(division.rest.empty() && division.loads.empty() && division.pieces.size() == 2);
  CHECK(division.pieces[0].bytes == 40 * kMiB && division.pieces[1].source == kSource + 40 * kMiB);
}

TEST("more than a slab holds is gathered in loads: of pages, or of parts of a page") {
  std::vector<gpu::PagePair> pages;
  for (uint32_t page = 0; page < 20; page++) pages.push_back({19 - page, page});
  const auto many = gpu::detail::divide({together(64, 32 << 10, pages)});
  CHECK(many.rest.empty() && many.loads.size() == 3);
  CHECK(many.loads[0].pieces.size() == 1 && many.loads[0].pieces[0].bytes == 16 * kMiB);
  CHECK(many.loads[2].pieces[0].bytes == 8 * kMiB);
  const auto wide = gpu::detail::divide({together(80, 512 << 10, {{1, 2}})});
  CHECK(wide.rest.empty() && wide.loads.size() == 3);
  CHECK(wide.loads[2].pieces[0].destination == kHost + 2 * 40 * kMiB + 32 * kMiB);
}

TEST("small lanes whose pages are neighbours at the host share slabs, and a launch") {
  std::vector<gpu::PagePair> pages;
  for (uint32_t page = 0; page < 64; page++) pages.push_back({page, page * 5 % 64});
  gpu::Section section = together(64, 16 << 10, pages);
  section.shape.destination_page_bytes = 16 << 10;
  for (auto& lane : section.lanes) lane.destination = kHost + (lane.source - kSource);
  const auto division = gpu::detail::divide({section});
  CHECK(division.rest.empty() && division.loads.size() == 4);
  for (const auto& [gather, pieces] : division.loads) {
    CHECK(gather.size() == 1 && gather[0].lanes.size() == 16 && pieces.size() == 16);
    CHECK(pieces[3].source == 3 * kMiB && pieces[3].bytes == kMiB);
  }
}

TEST("lanes of different shapes lie together in a page as well") {
  const std::vector<gpu::PagePair> pages{{0, 1}, {1, 0}};
  gpu::Section keys = together(32, 32 << 10, pages), values = together(32, 16 << 10, pages);
  keys.shape.destination_page_bytes = values.shape.destination_page_bytes = 48 * 32 << 10;
  for (uint64_t lane = 0; lane < 32; lane++) {
    keys.lanes[lane].destination = kHost + lane * (48 << 10);
    values.lanes[lane].destination = kHost + lane * (48 << 10) + (32 << 10);
  }
  const auto division = gpu::detail::divide({values, keys});
  CHECK(division.rest.empty() && division.loads.size() == 1);
  CHECK(division.loads[0].gather.size() == 2 && division.loads[0].pieces.size() == 1);
  CHECK(division.loads[0].pieces[0].bytes == 3 * kMiB);
}

TEST("whatever a batch is, its division moves the same bytes, within the limits of pieces") {
  size_t pieces = 0, loads = 0, left = 0;
  for (uint64_t seed = 0; seed < 300; seed++) {
    std::mt19937_64 random(seed);
    const auto pick = [&](uint64_t least, uint64_t most) {
      return least + random() % (most - least + 1);
    };
    const PieceLimits limits{.least = pick(1, 400), .slab = pick(400, 2000), .tables = 512};
    gpu::Batch batch;
    gpu::Address host = kHost;
    for (uint64_t block = pick(1, 3); block > 0; block--) {
      const uint64_t count = pick(1, 8), sections = pick(1, 3);
      std::vector<gpu::PagePair> pages;
      for (uint32_t page = 0; page < count; page++) pages.push_back({page, page});
      std::shuffle(pages.begin(), pages.end(), random);
      // All lanes of a page side by side, some with a gap behind them; then the next page.
      std::vector<gpu::Section> made(sections);
      uint64_t at = 0;
      for (auto& section : made) {
        section.shape = {.path = pick(0, 5) == 0 ? gpu::Path::kSameGpu : gpu::Path::kToHost,
                         .run_bytes = pick(1, 150),
                         .runs = pick(1, 3)};
        auto& shape = section.shape;
        shape.source_stride = shape.run_bytes + pick(0, 8);
        shape.destination_stride = shape.run_bytes + (pick(0, 3) == 0 ? 8 : 0);
        shape.source_page_bytes = shape.source_stride * shape.runs;
        section.pages = pages;
        for (uint64_t lane = pick(1, 6); lane > 0; lane--) {
          section.lanes.push_back({kSource + (random() % 1000) * 100'000, host + at});
          at += shape.destination_stride * shape.runs + (pick(0, 4) == 0 ? pick(1, 40) : 0);
        }
      }
      for (auto& section : made) section.shape.destination_page_bytes = at;
      batch.insert(batch.end(), made.begin(), made.end());
      host += at * 8;
    }
    const auto division = gpu::detail::divide(batch, limits);
    CHECK(moves_of(division.empty()
                       ? gpu::detail::Division{.pieces = {}, .loads = {}, .rest = batch}
                       : division,
                   limits) == moves_of(batch));
    pieces += division.pieces.size();
    loads += division.loads.size();
    left += division.rest.size();
  }
  CHECK(pieces > 100 && loads > 100 && left > 100);
}
