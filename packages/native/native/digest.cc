#include "digest.h"

#include <atomic>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "kvx/convert.h"
#include "kvx/digest.h"
#include "kvx/gpu/digest.h"
#include "task.h"

namespace kvx {

namespace {

// By region: where it is, and on which GPU.
struct Regions {
  std::vector<DigestMemory> memories;
  std::vector<int> gpus;  // kHost for memory of the host
};
constexpr int kHost = -1;

Regions regions_of(const Napi::Array& list) {
  Regions regions{std::vector<DigestMemory>(list.Length()), std::vector<int>(list.Length(), kHost)};
  for (uint32_t i = 0; i < list.Length(); i++) {
    const Napi::Value value = list.Get(i);
    if (!value.IsObject()) continue;
    const Memory memory = detail::memory_of(value.As<Napi::Object>());
    regions.memories[i] = {reinterpret_cast<const uint8_t*>(memory.address), memory.bytes};
    if (memory.kind == MemoryKind::kCuda) regions.gpus[i] = memory.device;
  }
  return regions;
}

// Each tensor is hashed where it lies.
std::vector<Digest> digest_anywhere(const DigestJob& job,
                                    const std::vector<detail::DigestTensor>& tensors,
                                    const Regions& regions, const std::atomic<bool>& stop) {
  std::map<int, std::vector<size_t>> by_gpu;
  for (size_t t = 0; t < tensors.size(); t++) by_gpu[regions.gpus[tensors[t].region]].push_back(t);
  std::vector<Digest> digests(tensors.size());
  for (const auto& [gpu, indices] : by_gpu) {
    DigestJob part{.page_tokens = job.page_tokens, .tensors = {}, .keys = {}, .runs = job.runs};
    std::vector<detail::DigestTensor> some;
    for (const size_t t : indices) {
      part.keys.push_back(job.keys[t]);
      some.push_back(tensors[t]);
    }
    const auto found =
        gpu == kHost ? digest(part, some, regions.memories, stop)
                     : gpu::digest(gpu::Context::open(gpu), part, some, regions.memories, stop);
    for (size_t i = 0; i < indices.size(); i++) digests[indices[i]] = found[i];
  }
  return digests;
}

// (memories by region, pageTokens, tensors, keys, runs)
DigestJob job_of(const Napi::CallbackInfo& info) {
  if (!info[1].IsNumber()) throw Napi::TypeError::New(info.Env(), "pageTokens must be a number");
  DigestJob job;
  job.page_tokens = info[1].As<Napi::Number>().DoubleValue();
  job.tensors =
      detail::numbers_of<double>(info[2], napi_float64_array, "tensors must be a Float64Array");
  job.keys =
      detail::numbers_of<uint64_t>(info[3], napi_biguint64_array, "keys must be a BigUint64Array");
  job.runs = detail::numbers_of<int32_t>(info[4], napi_int32_array, "runs must be an Int32Array");
  return job;
}

// -> { done, stop() }
Napi::Value start(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto list = info[0].As<Napi::Array>();
  auto regions = regions_of(list);
  auto job = job_of(info);
  std::vector<detail::DigestTensor> tensors;
  try {
    tensors = check_digest_job(job, regions.memories);
  } catch (const DigestError& error) {
    throw Napi::RangeError::New(env, error.what());
  }
  struct Work {
    DigestJob job;
    std::vector<detail::DigestTensor> tensors;
    Regions regions;
    std::vector<Digest> digests;
  };
  const auto stop = std::make_shared<std::atomic<bool>>(false);
  const auto work =
      std::make_shared<Work>(Work{std::move(job), std::move(tensors), std::move(regions), {}});
  // `list` is held, so that memory which nobody else holds stays while it is read.
  const Napi::Promise done = Task::start(
      env, "kvx.digest",
      [work, stop] {
        work->digests = digest_anywhere(work->job, work->tensors, work->regions, *stop);
      },
      [work, stop](Napi::Env env) -> Napi::Value {
        if (*stop) return env.Undefined();
        auto result = Napi::Uint8Array::New(env, work->digests.size() * sizeof(Digest));
        // This machine is a little-endian one: kvx/digest.h asserts it.
        if (!work->digests.empty()) {
          std::memcpy(result.Data(), work->digests.data(), result.ByteLength());
        }
        return result;
      },
      list);
  auto result = Napi::Object::New(env);
  result.Set("done", done);
  result.Set("stop",
             Napi::Function::New(env, [stop](const Napi::CallbackInfo&) { *stop = true; }, "stop"));
  return result;
}

}  // namespace

void export_digest(Napi::Env env, Napi::Object exports) {
  exports.Set("digest", Napi::Function::New(env, start, "digest"));
}

}  // namespace kvx
