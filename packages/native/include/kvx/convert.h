// Values between JavaScript and C++. What does not fit throws.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "kvx/driver.h"
#include "kvx/napi.h"
#include "kvx/plan.h"

namespace kvx::detail {

inline uint64_t operation_of(const Napi::Value& value) {
  return static_cast<uint64_t>(value.As<Napi::Number>().Int64Value());
}

inline std::chrono::milliseconds milliseconds_of(const Napi::Value& value) {
  constexpr double kLongest = 1e9;
  return std::chrono::milliseconds(
      static_cast<int64_t>(std::min(value.As<Napi::Number>().DoubleValue(), kLongest)));
}

inline Napi::Value bytes_to_js(Napi::Env env, const Bytes& bytes) {
  auto array = Napi::Uint8Array::New(env, bytes.size());
  std::copy(bytes.begin(), bytes.end(), array.Data());
  return array;
}

inline Bytes bytes_of(const Napi::Value& value) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array) {
    throw Napi::TypeError::New(value.Env(), "A Uint8Array is expected here");
  }
  const auto array = value.As<Napi::Uint8Array>();
  return Bytes(array.Data(), array.Data() + array.ElementLength());
}

template <typename T>
std::vector<T> numbers_of(const Napi::Value& value, napi_typedarray_type type, const char* what) {
  napi_typedarray_type found{};
  size_t length = 0;
  void* data = nullptr;
  const napi_status status =
      napi_get_typedarray_info(value.Env(), value, &found, &length, &data, nullptr, nullptr);
  if (status != napi_ok || found != type) throw Napi::TypeError::New(value.Env(), what);
  const T* numbers = static_cast<const T*>(data);
  return std::vector<T>(numbers, numbers + length);
}

inline Plan plan_of(const Napi::Value& lanes, const Napi::Value& groups,
                    const Napi::Value& blocks) {
  Plan plan;
  plan.lanes = numbers_of<double>(lanes, napi_float64_array, "lanes must be a Float64Array");
  plan.groups = numbers_of<int32_t>(groups, napi_int32_array, "groups must be an Int32Array");
  plan.blocks = numbers_of<int32_t>(blocks, napi_int32_array, "blocks must be an Int32Array");
  return plan;
}

inline Options options_of(const Napi::Object& object) {
  Options options;
  for (const auto& entry : object) {
    const std::string key = Napi::Value(entry.first).As<Napi::String>();
    const Napi::Value value = entry.second;
    if (value.IsBoolean()) {
      options.values[key] = value.As<Napi::Boolean>().Value();
    } else if (value.IsNumber()) {
      options.values[key] = value.As<Napi::Number>().DoubleValue();
    } else if (value.IsString()) {
      options.values[key] = value.As<Napi::String>().Utf8Value();
    }
  }
  return options;
}

// Undefined, or a row of what it is (`After::Kind`) and the handle.
inline After after_of(const Napi::Value& value) {
  if (value.IsUndefined()) return {};
  const auto row = value.As<Napi::Array>();
  bool lossless = true;
  return {static_cast<After::Kind>(row.Get(0U).As<Napi::Number>().Int32Value()),
          row.Get(1U).As<Napi::BigInt>().Uint64Value(&lossless)};
}

inline Memory memory_of(const Napi::Object& object) {
  Memory memory;
  bool lossless = true;
  memory.address = object.Get("address").As<Napi::BigInt>().Uint64Value(&lossless);
  memory.bytes = static_cast<uint64_t>(object.Get("bytes").As<Napi::Number>().Int64Value());
  const std::string kind = object.Get("kind").As<Napi::String>();
  memory.kind = kind == "cuda"  ? MemoryKind::kCuda
                : kind == "hip" ? MemoryKind::kHip
                                : MemoryKind::kCpu;
  memory.device = object.Get("device").As<Napi::Number>().Int32Value();
  const Napi::Value fd = object.Get("fd");
  if (fd.IsNumber()) memory.fd = fd.As<Napi::Number>().Int32Value();
  const Napi::Value handle = object.Get("handle");
  if (!handle.IsUndefined()) memory.handle = bytes_of(handle);
  const Napi::Value offset = object.Get("offset");
  if (offset.IsNumber()) {
    memory.offset = static_cast<uint64_t>(offset.As<Napi::Number>().Int64Value());
  }
  return memory;
}

}  // namespace kvx::detail
