#include "digest.h"

#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "kvx/convert.h"
#include "kvx/digest.h"

namespace kvx {

namespace {

std::vector<DigestMemory> memories_of(const Napi::Array& list) {
  std::vector<DigestMemory> memories(list.Length());
  for (uint32_t i = 0; i < list.Length(); i++) {
    const Napi::Value value = list.Get(i);
    if (!value.IsObject()) continue;
    const Memory memory = detail::memory_of(value.As<Napi::Object>());
    memories[i] = {reinterpret_cast<const uint8_t*>(memory.address), memory.bytes};
  }
  return memories;
}

// (memories by region, pageTokens, tensors, keys, runs)
DigestJob job_of(const Napi::CallbackInfo& info) {
  if (!info[1].IsNumber()) throw Napi::TypeError::New(info.Env(), "pageTokens must be a number");
  DigestJob job;
  job.page_tokens = info[1].As<Napi::Number>().DoubleValue();
  job.tensors = detail::numbers_of<Napi::Float64Array, double>(info[2], napi_float64_array,
                                                               "tensors must be a Float64Array");
  job.keys = detail::numbers_of<Napi::BigUint64Array, uint64_t>(info[3], napi_biguint64_array,
                                                                "keys must be a BigUint64Array");
  job.runs = detail::numbers_of<Napi::Int32Array, int32_t>(info[4], napi_int32_array,
                                                           "runs must be an Int32Array");
  return job;
}

using Stop = std::shared_ptr<std::atomic<bool>>;

class DigestWork : public Napi::AsyncWorker {
 public:
  // `list` is held, so that memory which nobody else holds stays while it is read.
  DigestWork(Napi::Env env, const Napi::Array& list, std::vector<DigestMemory> memories,
             DigestJob job, std::vector<detail::DigestTensor> tensors, Stop stop)
      : Napi::AsyncWorker(env, "kvx.digest"),
        deferred_(Napi::Promise::Deferred::New(env)),
        list_(Napi::Persistent(list.As<Napi::Object>())),
        memories_(std::move(memories)),
        job_(std::move(job)),
        tensors_(std::move(tensors)),
        stop_(std::move(stop)) {}

  Napi::Promise promise() const { return deferred_.Promise(); }

 protected:
  void Execute() override { digests_ = digest(job_, tensors_, memories_, *stop_); }

  void OnOK() override {
    if (*stop_) return deferred_.Resolve(Env().Undefined());
    auto result = Napi::Uint8Array::New(Env(), digests_.size() * sizeof(Digest));
    // This machine is a little-endian one: kvx/digest.h asserts it.
    if (!digests_.empty()) std::memcpy(result.Data(), digests_.data(), result.ByteLength());
    deferred_.Resolve(result);
  }

  void OnError(const Napi::Error& error) override { deferred_.Reject(error.Value()); }

 private:
  Napi::Promise::Deferred deferred_;
  Napi::ObjectReference list_;
  std::vector<DigestMemory> memories_;
  DigestJob job_;
  std::vector<detail::DigestTensor> tensors_;
  Stop stop_;
  std::vector<Digest> digests_;
};

// -> { done, stop() }
Napi::Value start(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto list = info[0].As<Napi::Array>();
  auto memories = memories_of(list);
  auto job = job_of(info);
  std::vector<detail::DigestTensor> tensors;
  try {
    tensors = check_digest_job(job, memories);
  } catch (const DigestError& error) {
    throw Napi::RangeError::New(env, error.what());
  }
  auto stop = std::make_shared<std::atomic<bool>>(false);
  auto work = std::make_unique<DigestWork>(env, list, std::move(memories), std::move(job),
                                           std::move(tensors), stop);
  auto result = Napi::Object::New(env);
  result.Set("done", work->promise());
  result.Set("stop",
             Napi::Function::New(env, [stop](const Napi::CallbackInfo&) { *stop = true; }, "stop"));
  work->Queue();
  work.release();  // deletes itself when it has ended
  return result;
}

}  // namespace

void export_digest(Napi::Env env, Napi::Object exports) {
  exports.Set("digest", Napi::Function::New(env, start, "digest"));
}

}  // namespace kvx
