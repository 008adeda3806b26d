// A CUDA driver for tests, without a GPU: the memory of its GPUs are memory files, its kernels run
// on the processor, a thread per stream. It is as strict as the real one: what needs a context
// fails without, a kernel that touches what is not mapped for its GPU breaks the context for good.
//
// Environment:
//   CUDA_VISIBLE_DEVICES    which of the two GPUs the process sees, as of CUDA
//   KVX_FAKE_CUDA_FAULTS    function=result, separated by commas: that function fails with it.
//                           kernel=719: the next kernel ends with that error. event=never: no
//                           event is ever reached. mps=1: the GPUs are under MPS. peers=0: no GPU
//                           reaches the other. Read at every call.
//   KVX_FAKE_CUDA_IDLE=us   kernels do nothing for so many microseconds each, so that what is
//   around
//                           them can be measured. Read once.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "kvx/gpu/api.h"

namespace fake {

using namespace kvx::gpu;

inline constexpr Result kInvalid = 1, kOutOfMemory = 2, kNotInitialized = 3, kNoDevice = 100,
                        kInvalidDevice = 101, kInvalidContext = 201, kNotSupported = 801,
                        kNotFound = 500;
inline constexpr size_t kGranularity = 2 << 20;

// driver.cc
// The result that a test wants of that function, or `otherwise`.
long wanted(const std::string& name, long otherwise);
// kOk, the sticky error, or that there is no context.
Result ready();
int current_gpu();         // physical number, of the calling thread's context
int visible(int ordinal);  // physical number, or -1
int ordinal_of(int gpu);   // of a physical number, or -1
void break_contexts(Result);
Result broken();
void* function_named(const std::string& name);

// memory.cc
// Whether a kernel of that GPU may touch the range.
bool reachable(int gpu, Address address, uint64_t bytes);

// kernels.cc
// What the launch of a kernel does, or null for one that is not known. `parameters` are copied.
std::function<Result()> kernel(const std::string& name, int gpu, unsigned grid, unsigned block,
                               void** parameters);

}  // namespace fake

#define FAKE extern "C" __attribute__((visibility("default")))
// Begins a function that a test may make fail, and that needs a context.
#define FAKE_CALL(name)                                                                        \
  if (const long result = fake::wanted(name, 0); result != 0) return static_cast<int>(result); \
  if (const Result result = fake::ready(); result != 0) return result
