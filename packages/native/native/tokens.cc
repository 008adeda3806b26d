#include "tokens.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "kvx/convert.h"
#include "kvx/handle.h"
#include "memory.h"

namespace kvx {

namespace {

using Wide = unsigned __int128;

// Run k of token t lies at  buffer: buffer_base + k * buffer_stride + t * token_bytes
//                           pages:  page_base + page * page_bytes + k * page_stride + (t mod
//                           page_tokens) * token_bytes
struct Tensor {
  uint64_t buffer_base, buffer_stride;
  uint64_t page_base, page_bytes, page_stride;
  uint64_t runs, token_bytes;
};
constexpr size_t kTensorWidth = 7;

// Consecutive tokens that lie in one page.
struct Span {
  uint64_t page;
  uint64_t first_in_page;
  uint64_t first_token;
  uint64_t tokens;
};

struct Job {
  uint8_t* buffer;
  uint64_t buffer_bytes;
  std::shared_ptr<MappedFile> memory;
  std::vector<Tensor> tensors;
  std::vector<Span> spans;
};

[[noreturn]] void out_of_range(Napi::Env env, const std::string& message) {
  throw Napi::RangeError::New(env, message);
}

uint64_t integer(Napi::Env env, double value, const char* name) {
  constexpr double kLargest = 9007199254740992.0;  // 2^53
  if (!(value >= 0 && value <= kLargest && std::floor(value) == value)) {
    out_of_range(env, std::string(name) + " must be an integer from 0 to 2^53");
  }
  return static_cast<uint64_t>(value);
}

// (buffer, memory, tensors, pages, pageTokens, from, to)
Job job_of(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Job job;
  if (!info[0].IsTypedArray() ||
      info[0].As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array) {
    throw Napi::TypeError::New(env, "buffer must be a Uint8Array");
  }
  auto buffer = info[0].As<Napi::Uint8Array>();
  job.buffer = buffer.Data();
  job.buffer_bytes = buffer.ElementLength();
  job.memory = Handle<MappedFile>::unwrap(info[1]);
  if (job.memory->released()) throw Napi::Error::New(env, "The memory was freed");
  const auto rows =
      detail::numbers_of<double>(info[2], napi_float64_array, "tensors must be a Float64Array");
  const auto pages =
      detail::numbers_of<int32_t>(info[3], napi_int32_array, "pages must be an Int32Array");
  const uint64_t page_tokens = integer(env, info[4].As<Napi::Number>().DoubleValue(), "pageTokens");
  const uint64_t from = integer(env, info[5].As<Napi::Number>().DoubleValue(), "from");
  const uint64_t to = integer(env, info[6].As<Napi::Number>().DoubleValue(), "to");
  if (rows.size() % kTensorWidth != 0) out_of_range(env, "tensors must be rows of 7 numbers");
  if (page_tokens == 0) out_of_range(env, "pageTokens must be positive");
  if (from > to) out_of_range(env, "from must not be greater than to");
  if (Wide(to) > Wide(pages.size()) * page_tokens) {
    out_of_range(env, "the pages end before token " + std::to_string(to));
  }
  for (uint64_t token = from; token < to;) {
    const uint64_t index = token / page_tokens;
    const uint64_t end = std::min(to, (index + 1) * page_tokens);
    if (pages[index] < 0) out_of_range(env, "page numbers must not be negative");
    job.spans.push_back(
        {static_cast<uint64_t>(pages[index]), token % page_tokens, token, end - token});
    token = end;
  }
  for (size_t i = 0; i < rows.size(); i += kTensorWidth) {
    const auto at = [&](size_t field) {
      return integer(env, rows[i + field], "every number of tensors");
    };
    const Tensor tensor{at(0), at(1), at(2), at(3), at(4), at(5), at(6)};
    if (tensor.runs == 0 || tensor.token_bytes == 0 || job.spans.empty()) continue;
    const std::string name = "tensor " + std::to_string(i / kTensorWidth);
    if (tensor.buffer_base + Wide(tensor.runs - 1) * tensor.buffer_stride +
            Wide(to) * tensor.token_bytes >
        job.buffer_bytes) {
      out_of_range(env, name + " reaches outside the buffer of " +
                            std::to_string(job.buffer_bytes) + " bytes");
    }
    for (const Span& span : job.spans) {
      if (tensor.page_base + Wide(span.page) * tensor.page_bytes +
              Wide(tensor.runs - 1) * tensor.page_stride +
              Wide(span.first_in_page + span.tokens) * tensor.token_bytes >
          job.memory->bytes()) {
        out_of_range(env, "page " + std::to_string(span.page) + " of " + name +
                              " reaches outside the memory of " +
                              std::to_string(job.memory->bytes()) + " bytes");
      }
    }
    job.tensors.push_back(tensor);
  }
  return job;
}

template <typename Copy>
void for_each_run(const Job& job, Copy copy) {
  for (const Tensor& tensor : job.tensors) {
    for (const Span& span : job.spans) {
      uint8_t* flat = job.buffer + tensor.buffer_base + span.first_token * tensor.token_bytes;
      uint8_t* paged = job.memory->data() + tensor.page_base + span.page * tensor.page_bytes +
                       span.first_in_page * tensor.token_bytes;
      const uint64_t bytes = span.tokens * tensor.token_bytes;
      for (uint64_t run = 0; run < tensor.runs; run++) {
        copy(flat + run * tensor.buffer_stride, paged + run * tensor.page_stride, bytes);
      }
    }
  }
}

void scatter(const Napi::CallbackInfo& info) {
  for_each_run(job_of(info), [](uint8_t* flat, uint8_t* paged, uint64_t bytes) {
    std::memmove(paged, flat, bytes);
  });
}

void gather(const Napi::CallbackInfo& info) {
  for_each_run(job_of(info), [](uint8_t* flat, uint8_t* paged, uint64_t bytes) {
    std::memmove(flat, paged, bytes);
  });
}

}  // namespace

void export_tokens(Napi::Env env, Napi::Object exports) {
  exports.Set("scatter", Napi::Function::New(env, scatter, "scatter"));
  exports.Set("gather", Napi::Function::New(env, gather, "gather"));
}

}  // namespace kvx
