#include "kvx/staging.h"

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "kvx/convert.h"
#include "staging.h"

namespace kvx {

namespace {

CopyMemory memory_at(const Napi::Value& value) {
  if (!value.IsObject()) return {};
  const Memory memory = detail::memory_of(value.As<Napi::Object>());
  return {reinterpret_cast<uint8_t*>(memory.address), memory.bytes};
}

class CopyWork : public Napi::AsyncWorker {
 public:
  // `held` are the memories, so that they stay while they are read and written.
  CopyWork(Napi::Env env, Napi::Object held, Side side, Plan plan, std::vector<CopyMemory> memories,
           uint8_t* staging, uint64_t most)
      : Napi::AsyncWorker(env, "kvx.staging"),
        deferred_(Napi::Promise::Deferred::New(env)),
        held_(Napi::Persistent(held)),
        side_(side),
        plan_(std::move(plan)),
        memories_(std::move(memories)),
        staging_(staging),
        most_(most) {}

  Napi::Promise promise() const { return deferred_.Promise(); }

 protected:
  void Execute() override {
    try {
      bytes_ = check_side(plan_, side_, memories_, most_);
    } catch (const PlanError& error) {
      return SetError(error.what());
    }
    if (side_ == Side::kSource) {
      gather(plan_, memories_, staging_);
    } else {
      scatter(plan_, memories_, staging_);
    }
  }

  void OnOK() override { deferred_.Resolve(Napi::Number::New(Env(), static_cast<double>(bytes_))); }

  void OnError(const Napi::Error& error) override { deferred_.Reject(error.Value()); }

 private:
  Napi::Promise::Deferred deferred_;
  Napi::ObjectReference held_;
  const Side side_;
  const Plan plan_;
  const std::vector<CopyMemory> memories_;
  uint8_t* const staging_;
  const uint64_t most_;
  uint64_t bytes_ = 0;
};

// (gather or else scatter, memories by region, staging memory, offset, lanes, groups, blocks)
Napi::Value start(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Side side = info[0].As<Napi::Boolean>() ? Side::kSource : Side::kDestination;
  const auto list = info[1].As<Napi::Array>();
  const CopyMemory staging = memory_at(info[2]);
  const double offset = info[3].IsNumber() ? info[3].As<Napi::Number>().DoubleValue() : -1;
  // Written so that NaN fails.
  if (!(offset >= 0 && offset <= static_cast<double>(staging.size) &&
        offset == static_cast<double>(static_cast<uint64_t>(offset)))) {
    throw Napi::RangeError::New(env, "offset must be a place in the staging memory");
  }
  const auto at = static_cast<uint64_t>(offset);
  Plan plan = detail::plan_of(info[4], info[5], info[6]);
  std::vector<CopyMemory> memories;
  for (uint32_t i = 0; i < list.Length(); i++) memories.push_back(memory_at(list.Get(i)));
  auto held = Napi::Array::New(env, 2);
  held.Set(0U, list);
  held.Set(1U, info[2]);
  auto* work = new CopyWork(env, held, side, std::move(plan), std::move(memories),
                            staging.bytes + at, staging.size - at);
  const Napi::Promise promise = work->promise();
  work->Queue();  // deletes itself when it has ended
  return promise;
}

}  // namespace

void export_staging(Napi::Env env, Napi::Object exports) {
  exports.Set("copyStaged", Napi::Function::New(env, start, "copyStaged"));
}

}  // namespace kvx
