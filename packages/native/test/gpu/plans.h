// Plans at random, and what they copy.
#pragma once

#include <random>

#include "device_memory.h"

struct RandomPlan {
  Plan plan;
  uint64_t source_bytes = 0, destination_bytes = 0;  // of each of two regions
};

// All addresses and lengths are multiples of `word`.
inline RandomPlan random_plan(uint64_t seed, uint64_t word) {
  std::mt19937_64 random(seed);
  const auto pick = [&](uint64_t least, uint64_t most) {
    return least + random() % (most - least + 1);
  };
  RandomPlan made;
  const uint64_t pages = pick(1, 20);
  std::vector<int32_t> order(pages);
  for (uint64_t i = 0; i < pages; i++) order[i] = static_cast<int32_t>(i);
  std::shuffle(order.begin(), order.end(), random);
  const uint64_t shapes = pick(1, 3);
  uint64_t base[2] = {0, 0};
  for (uint64_t shape = 0; shape < shapes; shape++) {
    const uint64_t run = word * pick(1, 900), runs = pick(1, 4);
    const uint64_t gap = word * pick(0, 3), lanes = pick(1, 4);
    const uint64_t source_stride = run + gap, destination_stride = run;
    const uint64_t source_page = source_stride * runs + word * pick(0, 2);
    const uint64_t destination_page = destination_stride * runs;
    for (uint64_t lane = 0; lane < lanes; lane++) {
      const uint64_t region = lane % 2;
      for (const double field :
           {static_cast<double>(region), static_cast<double>(region),
            static_cast<double>(base[region]), static_cast<double>(base[region]),
            static_cast<double>(source_page), static_cast<double>(destination_page),
            static_cast<double>(run), static_cast<double>(runs), static_cast<double>(source_stride),
            static_cast<double>(destination_stride)}) {
        made.plan.lanes.push_back(field);
      }
      base[region] += source_page * pages;
    }
  }
  const auto groups = static_cast<int32_t>(pages);
  for (int32_t g = 0; g < groups; g++) {
    made.plan.groups.insert(made.plan.groups.end(), {order[static_cast<size_t>(g)], g, 1});
  }
  made.plan.blocks = {0, groups, 0, static_cast<int32_t>(made.plan.lanes.size() / kLaneWidth)};
  made.source_bytes = made.destination_bytes = std::max(base[0], base[1]) + word;
  const uint64_t sizes[] = {made.source_bytes, made.source_bytes};
  check_plan(made.plan, sizes, sizes);
  return made;
}

inline std::vector<Segment> segments_of(const Plan& plan) {
  std::vector<Segment> segments;
  expand_plan(plan, 0, [&](const Segment& segment) {
    segments.push_back(segment);
    return true;
  });
  return segments;
}
