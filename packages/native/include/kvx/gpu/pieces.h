// What of a batch a copy engine writes to memory of the host. Pure.
//
// Multiprocessors that store to memory of the host slow down the whole GPU; copy engines do not,
// but need large pieces. Where lanes lie side by side at the destination, as in pools that keep all
// lanes of a page together, a kernel gathers them in a slab of the GPU's own memory, and a copy
// engine takes whole pieces from there. Drivers that take many pieces in one call copy them without
// a pause in between, so that smaller ones are worth it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "kvx/gpu/batch.h"
#include "kvx/gpu/launch.h"

namespace kvx::gpu::detail {

struct Piece {
  Address source, destination;
  uint64_t bytes;
};

// What fits into a slab at once. Addresses in the slab count from its first byte.
struct Load {
  Batch gather;
  std::vector<Piece> pieces;  // from the slab
};

struct Division {
  std::vector<Piece> pieces;  // in one piece at the source as well
  std::vector<Load> loads;
  Batch rest;  // for the kernel

  bool empty() const { return pieces.empty() && loads.empty(); }
};

inline constexpr uint64_t kLeastPiece = uint64_t{1} << 20;
inline constexpr uint64_t kLeastPieceOfBatch = uint64_t{256} << 10;

struct PieceLimits {
  uint64_t least = kLeastPiece;  // bytes of a piece that is worth a copy engine's while
  uint64_t slab = uint64_t{16} << 20;
  size_t tables = kMostTableBytes / 2;  // bytes that the gather of one load has for its tables
};

// One lane, whose bytes of a page lie side by side at the destination.
struct Column {
  const Section* section;
  LanePair lane;
  uint64_t bytes;  // of a page
};

// Of sections with the same pages: columns that lie side by side, and so make one piece of a page.
struct ColumnGroup {
  std::span<const Column> columns;
  uint64_t bytes;
};

inline std::vector<ColumnGroup> groups_of(std::span<const Column> sorted, uint64_t most) {
  std::vector<ColumnGroup> groups;
  for (size_t first = 0, next = 0; first < sorted.size(); first = next) {
    uint64_t bytes = 0;
    do {
      bytes += sorted[next++].bytes;
    } while (next < sorted.size() &&
             sorted[next].lane.destination == sorted[first].lane.destination + bytes &&
             bytes + sorted[next].bytes <= most);
    groups.push_back({sorted.subspan(first, next - first), bytes});
  }
  return groups;
}

// The pages of `pages`, which are sorted by destination, side by side in a slab.
inline Load load_of(const ColumnGroup& group, std::span<const PagePair> pages) {
  const Address first = group.columns.front().lane.destination;
  const uint64_t page_bytes = group.columns.front().section->shape.destination_page_bytes;
  std::vector<PagePair> numbered;
  Load load;
  for (const PagePair& page : pages) {
    const auto number = static_cast<uint32_t>(numbered.size());
    const Address at = first + page.destination * page_bytes;
    if (!load.pieces.empty() && load.pieces.back().destination + load.pieces.back().bytes == at) {
      load.pieces.back().bytes += group.bytes;
    } else {
      load.pieces.push_back({number * group.bytes, at, group.bytes});
    }
    numbered.push_back({page.source, number});
  }
  std::map<const Section*, Section> sections;
  for (const Column& column : group.columns) {
    Section& section = sections[column.section];
    section.lanes.push_back({column.lane.source, column.lane.destination - first});
  }
  for (auto& [original, section] : sections) {
    section.shape = original->shape;
    section.shape.path = Path::kSameGpu;
    section.shape.destination_page_bytes = group.bytes;
    section.pages = numbered;
    load.gather.push_back(std::move(section));
  }
  return load;
}

// Pages, sorted by destination, by whether they are part of a large piece.
struct Split {
  std::vector<PagePair> large, small;
};

// `bytes` are those of a group in a page; `pages_join`: these are all that the page has.
inline Split split_of(std::span<const PagePair> pages, uint64_t bytes, bool pages_join,
                      uint64_t least) {
  Split split;
  for (size_t first = 0, next = 0; first < pages.size(); first = next) {
    do {
      next++;
    } while (next < pages.size() && pages_join &&
             pages[next].destination == pages[next - 1].destination + 1);
    auto& kind = (next - first) * bytes >= least ? split.large : split.small;
    kind.insert(kind.end(), pages.begin() + static_cast<ptrdiff_t>(first),
                pages.begin() + static_cast<ptrdiff_t>(next));
  }
  return split;
}

// How many pages of a group a load has room for.
inline size_t most_pages(const ColumnGroup& group, const PieceLimits& limits) {
  const size_t lane_table = group.columns.size() * sizeof(LanePair);
  const size_t page_table = group.columns.size() * sizeof(PagePair);  // of one page, at most
  const size_t in_tables =
      lane_table < limits.tables ? (limits.tables - lane_table) / page_table : 0;
  return std::min<uint64_t>(limits.slab / group.bytes, in_tables);
}

// Of sections of the path to the host that have the same pages, which make pieces together.
inline void divide_sections(std::span<const Section* const> sections, const PieceLimits& limits,
                            Division& out) {
  std::vector<Column> columns;
  for (const Section* section : sections) {
    const Shape& shape = section->shape;
    if (shape.runs == 1 && shape.run_bytes >= limits.least) {
      for (const LanePair& lane : section->lanes) {
        for (const PagePair& page : section->pages) {
          out.pieces.push_back({lane.source + page.source * shape.source_page_bytes,
                                lane.destination + page.destination * shape.destination_page_bytes,
                                shape.run_bytes});
        }
      }
    } else if (shape.runs == 1 || shape.destination_stride == shape.run_bytes) {
      for (const LanePair& lane : section->lanes) {
        columns.push_back({section, lane, shape.run_bytes * shape.runs});
      }
    } else {
      out.rest.push_back(*section);
    }
  }
  if (columns.empty()) return;
  std::sort(columns.begin(), columns.end(), [](const Column& a, const Column& b) {
    return a.lane.destination < b.lane.destination;
  });
  const auto by_destination = [](const PagePair& a, const PagePair& b) {
    return a.destination < b.destination;
  };
  std::vector<PagePair> pages = sections.front()->pages;
  if (!std::is_sorted(pages.begin(), pages.end(), by_destination)) {
    std::sort(pages.begin(), pages.end(), by_destination);
  }
  const Split none_large{.large = {}, .small = pages};
  const uint64_t page_bytes = sections.front()->shape.destination_page_bytes;
  std::map<uint64_t, Split> splits;  // by bytes of a group
  // Lanes that are left for the kernel, by their section and pages.
  std::map<std::pair<const Section*, const Split*>, std::vector<LanePair>> left;
  for (const ColumnGroup& group : groups_of(columns, limits.slab)) {
    const size_t most = most_pages(group, limits);
    const Split* split = &none_large;
    if (most > 0) {
      auto found = splits.find(group.bytes);
      if (found == splits.end()) {
        const bool pages_join = group.bytes == page_bytes;
        found = splits.emplace(group.bytes, split_of(pages, group.bytes, pages_join, limits.least))
                    .first;
      }
      split = &found->second;
    }
    for (std::span<const PagePair> rest = split->large; !rest.empty();) {
      const size_t count = std::min(rest.size(), most);
      out.loads.push_back(load_of(group, rest.first(count)));
      rest = rest.subspan(count);
    }
    if (split->small.empty()) continue;
    for (const Column& column : group.columns) {
      left[{column.section, split}].push_back(column.lane);
    }
  }
  for (auto& [of, lanes] : left) {
    out.rest.push_back({of.first->shape, std::move(lanes), of.second->small});
  }
}

// Loads that fit into one slab together become one, with one launch for all lanes of a shape.
inline std::vector<Load> packed(std::vector<Load> loads, const PieceLimits& limits) {
  constexpr uint64_t kAlignment = 16;
  std::vector<Load> packs;
  uint64_t bytes = 0, tables = 0;  // of the last one
  for (Load& load : loads) {
    uint64_t more = 0, more_tables = 0;
    for (const Piece& piece : load.pieces) more += piece.bytes;
    for (const Section& section : load.gather) {
      more_tables += section.lanes.size() * sizeof(LanePair);
      more_tables += section.pages.size() * sizeof(PagePair);
    }
    const uint64_t start = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    if (packs.empty() || start + more > limits.slab || tables + more_tables > limits.tables) {
      packs.push_back(std::move(load));
      bytes = more;
      tables = more_tables;
      continue;
    }
    Load& pack = packs.back();
    for (const Piece& piece : load.pieces) {
      Piece& last = pack.pieces.back();
      const bool goes_on = last.source + last.bytes == start + piece.source &&
                           last.destination + last.bytes == piece.destination;
      if (goes_on) {
        last.bytes += piece.bytes;
      } else {
        pack.pieces.push_back({start + piece.source, piece.destination, piece.bytes});
      }
    }
    for (Section& section : load.gather) {
      for (LanePair& lane : section.lanes) lane.destination += start;
      const auto same =
          std::find_if(pack.gather.begin(), pack.gather.end(), [&](const auto& other) {
            return other.shape == section.shape && other.pages == section.pages;
          });
      if (same == pack.gather.end()) {
        pack.gather.push_back(std::move(section));
      } else {
        same->lanes.insert(same->lanes.end(), section.lanes.begin(), section.lanes.end());
      }
    }
    bytes = start + more;
    tables += more_tables;
  }
  return packs;
}

// Empty, without a rest, when all of it is for the kernel.
inline Division divide(const Batch& batch, const PieceLimits& limits = {}) {
  const auto is_to_host = [](const Section& each) { return each.shape.path == Path::kToHost; };
  if (std::none_of(batch.begin(), batch.end(), is_to_host)) return {};
  Division out;
  std::vector<const Section*> together;
  const auto finish = [&] {
    if (!together.empty()) divide_sections(together, limits, out);
    together.clear();
  };
  for (const Section& section : batch) {
    if (!is_to_host(section)) {
      out.rest.push_back(section);
      continue;
    }
    if (!together.empty() &&
        (together.front()->shape.destination_page_bytes != section.shape.destination_page_bytes ||
         together.front()->pages != section.pages)) {
      finish();
    }
    together.push_back(&section);
  }
  finish();
  if (out.empty()) return {};
  out.loads = packed(std::move(out.loads), limits);
  return out;
}

}  // namespace kvx::gpu::detail
