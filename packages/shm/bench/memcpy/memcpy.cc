// What the engine is measured against: a plain loop of memcpy over the same mappings, with as many
// threads.
#include <chrono>
#include <cstring>
#include <thread>
#include <vector>

#include "kvx/convert.h"

namespace {

struct Copy {
  const uint8_t* source;
  uint8_t* destination;
  size_t bytes;
};

uint8_t* address_of(const Napi::Value& value) {
  bool lossless = true;
  return reinterpret_cast<uint8_t*>(value.As<Napi::BigInt>().Uint64Value(&lossless));
}

// (source address, destination address, rows of `expand`, threads) -> seconds
Napi::Value run(const Napi::CallbackInfo& info) {
  const uint8_t* source = address_of(info[0]);
  uint8_t* destination = address_of(info[1]);
  const auto rows =
      kvx::detail::numbers_of<double>(info[2], napi_float64_array, "rows must be a Float64Array");
  const size_t threads = info[3].As<Napi::Number>().Uint32Value();
  std::vector<Copy> copies;
  for (size_t i = 0; i < rows.size(); i += 5) {
    copies.push_back({source + static_cast<uint64_t>(rows[i + 2]),
                      destination + static_cast<uint64_t>(rows[i + 3]),
                      static_cast<size_t>(rows[i + 4])});
  }
  const auto started = std::chrono::steady_clock::now();
  const auto share = [&](size_t number) {
    const size_t end = copies.size() * (number + 1) / threads;
    for (size_t i = copies.size() * number / threads; i < end; i++) {
      std::memcpy(copies[i].destination, copies[i].source, copies[i].bytes);
    }
  };
  std::vector<std::thread> helpers;
  for (size_t i = 1; i < threads; i++) helpers.emplace_back(share, i);
  share(0);
  for (auto& helper : helpers) helper.join();
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - started;
  return Napi::Number::New(info.Env(), took.count());
}

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  exports.Set("run", Napi::Function::New(env, run, "run"));
  return exports;
}

}  // namespace

NODE_API_MODULE(memcpy, Init)
