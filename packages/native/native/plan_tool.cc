#include "plan_tool.h"

#include <cstdint>
#include <vector>

#include "kvx/convert.h"
#include "kvx/plan.h"

namespace kvx {

namespace {

std::vector<uint64_t> sizes_of(const Napi::Value& value) {
  const auto sizes =
      detail::numbers_of<double>(value, napi_float64_array, "region sizes must be a Float64Array");
  return std::vector<uint64_t>(sizes.begin(), sizes.end());
}

// (lanes, groups, blocks, source region sizes, destination region sizes, longest segment) -> rows
// of 5
Napi::Value expand(const Napi::CallbackInfo& info) {
  const Plan plan = detail::plan_of(info[0], info[1], info[2]);
  const auto source_bytes = sizes_of(info[3]);
  const auto destination_bytes = sizes_of(info[4]);
  const auto longest = static_cast<uint64_t>(info[5].As<Napi::Number>().Int64Value());
  std::vector<double> rows;
  try {
    check_plan(plan, source_bytes, destination_bytes);
  } catch (const PlanError& error) {
    throw Napi::RangeError::New(info.Env(), error.what());
  }
  expand_plan(plan, longest, [&rows](const Segment& segment) {
    rows.push_back(segment.source_region);
    rows.push_back(segment.destination_region);
    rows.push_back(static_cast<double>(segment.source_offset));
    rows.push_back(static_cast<double>(segment.destination_offset));
    rows.push_back(static_cast<double>(segment.bytes));
    return true;
  });
  auto result = Napi::Float64Array::New(info.Env(), rows.size());
  std::copy(rows.begin(), rows.end(), result.Data());
  return result;
}

}  // namespace

void export_plan_tool(Napi::Env env, Napi::Object exports) {
  exports.Set("expand", Napi::Function::New(env, expand, "expand"));
}

}  // namespace kvx
