#include "checksum.h"

// Node's own, which it exports: its CRC-32 uses the instructions of the processor.
#include <zlib.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "kvx/convert.h"

namespace kvx {

namespace {

using Wide = unsigned __int128;

// Run k of page p lies at  start + p * page_bytes + k * stride
struct Lane {
  const uint8_t* start;
  uint64_t page_bytes, run_bytes, runs, stride;
};
constexpr size_t kLaneWidth = 6;

uint64_t integer(Napi::Env env, double value) {
  constexpr double kLargest = 9007199254740992.0;  // 2^53
  if (!(value >= 0 && value <= kLargest && std::floor(value) == value)) {
    throw Napi::RangeError::New(env, "every number of lanes must be an integer from 0 to 2^53");
  }
  return static_cast<uint64_t>(value);
}

// (memories by region, lanes, pages); throws when a page lies outside of its region.
std::pair<std::vector<Lane>, std::vector<int32_t>> job_of(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto memories = info[0].As<Napi::Array>();
  const auto rows = detail::numbers_of<Napi::Float64Array, double>(info[1], napi_float64_array,
                                                                   "lanes must be a Float64Array");
  auto pages = detail::numbers_of<Napi::Int32Array, int32_t>(info[2], napi_int32_array,
                                                             "pages must be an Int32Array");
  if (rows.size() % kLaneWidth != 0) {
    throw Napi::RangeError::New(env, "lanes must be rows of 6 numbers");
  }
  int32_t highest = -1;
  for (const int32_t page : pages) {
    if (page < 0) throw Napi::RangeError::New(env, "page numbers must not be negative");
    highest = std::max(highest, page);
  }
  std::vector<Lane> lanes;
  for (size_t i = 0; i < rows.size(); i += kLaneWidth) {
    const auto at = [&](size_t field) { return integer(env, rows[i + field]); };
    const uint64_t region = at(0), base = at(1), page_bytes = at(2), run_bytes = at(3),
                   runs = at(4), stride = at(5);
    const Napi::Value memory =
        region < memories.Length() ? memories.Get(static_cast<uint32_t>(region)) : env.Undefined();
    if (!memory.IsObject()) {
      throw Napi::RangeError::New(env, "region " + std::to_string(region) + " is not registered");
    }
    if (runs == 0 || run_bytes == 0 || highest < 0) continue;
    const Memory range = detail::memory_of(memory.As<Napi::Object>());
    if (base + Wide(highest) * page_bytes + Wide(runs - 1) * stride + run_bytes > range.bytes) {
      throw Napi::RangeError::New(env, "page " + std::to_string(highest) + " of lane " +
                                           std::to_string(i / kLaneWidth) +
                                           " reaches outside region " + std::to_string(region) +
                                           " of " + std::to_string(range.bytes) + " bytes");
    }
    lanes.push_back({reinterpret_cast<const uint8_t*>(range.address) + base, page_bytes, run_bytes,
                     runs, stride});
  }
  return {std::move(lanes), std::move(pages)};
}

class Checksum : public Napi::AsyncWorker {
 public:
  // `memories` is held, so that memory which nobody else holds stays while it is read.
  Checksum(Napi::Env env, const Napi::Value& memories, std::vector<Lane> lanes,
           std::vector<int32_t> pages)
      : Napi::AsyncWorker(env, "kvx.checksum"),
        deferred_(Napi::Promise::Deferred::New(env)),
        memories_(Napi::Persistent(memories.As<Napi::Object>())),
        lanes_(std::move(lanes)),
        pages_(std::move(pages)),
        sums_(pages_.size()) {}

  Napi::Promise promise() const { return deferred_.Promise(); }

 protected:
  void Execute() override {
    for (size_t i = 0; i < pages_.size(); i++) {
      auto sum = crc32_z(0, nullptr, 0);
      for (const Lane& lane : lanes_) {
        const uint8_t* run = lane.start + static_cast<uint64_t>(pages_[i]) * lane.page_bytes;
        for (uint64_t k = 0; k < lane.runs; k++) {
          sum = crc32_z(sum, run + k * lane.stride, lane.run_bytes);
        }
      }
      sums_[i] = static_cast<uint32_t>(sum);
    }
  }

  void OnOK() override {
    auto sums = Napi::Uint32Array::New(Env(), sums_.size());
    std::copy(sums_.begin(), sums_.end(), sums.Data());
    deferred_.Resolve(sums);
  }

  void OnError(const Napi::Error& error) override { deferred_.Reject(error.Value()); }

 private:
  Napi::Promise::Deferred deferred_;
  Napi::ObjectReference memories_;
  std::vector<Lane> lanes_;
  std::vector<int32_t> pages_;
  std::vector<uint32_t> sums_;
};

Napi::Value checksum(const Napi::CallbackInfo& info) {
  auto [lanes, pages] = job_of(info);
  auto* work = new Checksum(info.Env(), info[0], std::move(lanes), std::move(pages));
  const Napi::Promise promise = work->promise();
  work->Queue();
  return promise;
}

}  // namespace

void export_checksum(Napi::Env env, Napi::Object exports) {
  exports.Set("checksum", Napi::Function::New(env, checksum, "checksum"));
}

}  // namespace kvx
