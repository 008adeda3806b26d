// What kvx does when the driver fails. Only the fake driver fails on demand: gpu.test.ts runs
// these.
#include <sys/mman.h>

#include <cstdlib>

#include "device_memory.h"
#include "writer.h"

namespace {

void fault(const char* what) {
  setenv("KVX_FAKE_CUDA_FAULTS", what, 1);
}

gpu::Batch copy(gpu::Address from, gpu::Address to, uint64_t bytes) {
  return {{{.path = gpu::Path::kSameGpu, .run_bytes = bytes}, {{from, to}}, {{0, 0}}}};
}

}  // namespace

TEST("fake: a driver that cannot be initialized is a reason with CUDA's name for it") {
  fault("cuInit=2");
  has(gpu::devices().reason, "cuInit failed: CUDA_ERROR_OUT_OF_MEMORY (2)");
}

TEST("fake: a driver that lacks a function is too old, and the function is named") {
  fault("no cuMemRetainAllocationHandle=1");
  has(gpu::devices().reason, "has no cuMemRetainAllocationHandle of version 11000");
}

TEST("fake: MPS and missing peer access show in the list") {
  fault("mps=1,peers=0");
  const auto found = gpu::devices();
  CHECK(found.list.size() == 2 && found.list[0].mps && !found.list[0].reaches[1]);
}

TEST(
    "fake: a context, kernels and memory that are refused say which call failed, and leave "
    "nothing") {
  fault("cuDevicePrimaryCtxRetain=2");
  has(message_of([] { gpu::Context::open(0); }, "ERR_KVX_BACKEND_UNAVAILABLE"),
      "cuDevicePrimaryCtxRetain failed: CUDA_ERROR_OUT_OF_MEMORY (2) on GPU 0");
  fault("");
  const auto context = gpu::Context::open(0);
  for (const char* function :
       {"cuMemCreate", "cuMemAddressReserve", "cuMemMap", "cuMemSetAccess"}) {
    fault((std::string(function) + "=2").c_str());
    has(message_of([&] { gpu::Allocation memory(context, 1 << 20); }, "ERR_KVX_MEMORY"), function);
  }
  fault("cuModuleLoadDataEx=218");
  has(message_of([&] { gpu::Copier copier(context, {}); }, "ERR_KVX_BACKEND_UNAVAILABLE"),
      "cuModuleLoadDataEx");
  for (const char* function : {"cuStreamCreate", "cuMemHostAlloc", "cuMemHostGetDevicePointer"}) {
    fault((std::string(function) + "=2").c_str());
    has(message_of([&] { gpu::Copier copier(context, {}); }, "ERR_KVX_BACKEND_UNAVAILABLE"),
        function);
  }
  CHECK(context->broken().empty());
}

TEST("fake: host memory that cannot be pinned is refused") {
  const auto context = gpu::Context::open(0);
  static uint8_t room[16384];
  fault("cuMemHostRegister=2");
  has(message_of([&] { gpu::HostMemory host(context, room, sizeof room); }, "ERR_KVX_MEMORY"),
      "cuMemHostRegister failed");
  fault("");
  const gpu::HostMemory host(context, room, sizeof room);
}

TEST("fake: an import that is refused says whose memory, for which GPU, and why") {
  const auto context = gpu::Context::open(0);
  const gpu::Allocation memory(context, 1 << 20);
  const auto shared = gpu::share(*context, memory.address(), 1 << 20);
  fault("cuMemImportFromShareableHandle=2");
  Writer process(1);
  const std::string why = process.write_pattern(shared, 1);
  has(why, "The memory of GPU-a0a0a0a0-");
  has(why, "cannot be mapped for GPU 1: cuMemImportFromShareableHandle failed");
}

TEST("fake: a launch that is refused fails that copy, and the next one works") {
  const auto context = gpu::Context::open(0);
  const gpu::Allocation memory(context, 1 << 20);
  gpu::Copier copier(context, {});
  const std::atomic<bool> cancelled{false};
  const auto batch = copy(memory.address(), memory.address() + 8192, 4096);
  fault("cuLaunchKernel=701");
  has(message_of([&] { copier.submit(batch, {}, cancelled); }, "ERR_KVX_TRANSFER_FAILED"),
      "cuLaunchKernel failed");
  fault("");
  copy_now(copier, batch);
}

TEST(
    "an error that CUDA cannot recover from fails what runs and what comes, and the process "
    "lives on") {
  const auto context = gpu::Context::open(0);
  const gpu::Allocation memory(context, 1 << 20);
  const std::atomic<bool> cancelled{false};
  gpu::Copier copier(context, {});
  const auto ticket = copier.submit(copy(memory.address(), 4096, 4096), {}, cancelled);
  std::string reason;
  CHECK(settle(copier, ticket, reason) == State::kFailed);
  has(reason, "CUDA_ERROR_ILLEGAL_ADDRESS (700)");
  has(reason, "unusable from now on");
  has(message_of(
          [&] {
            copier.submit(copy(memory.address(), memory.address() + 8192, 4096), {}, cancelled);
          },
          "ERR_KVX_TRANSFER_FAILED"),
      "unusable from now on");
  // Nothing is known of what runs: so the copier says, and its end touches nothing.
  CHECK(!copier.stop(std::chrono::seconds(5)));
  CHECK(context->broken() == reason);
}

TEST("fake: a copy whose event never comes stays pending, and stopping gives up in time") {
  const auto context = gpu::Context::open(0);
  const gpu::Allocation memory(context, 1 << 20);
  const std::atomic<bool> cancelled{false};
  gpu::Copier copier(context, {});
  fault("event=never");
  const auto ticket =
      copier.submit(copy(memory.address(), memory.address() + 8192, 4096), {}, cancelled);
  std::string reason;
  CHECK(!copier.stop(std::chrono::milliseconds(50)));
  CHECK(copier.poll(ticket, reason) == State::kPending);
  fault("");
  CHECK(settle(copier, ticket, reason) == State::kDone);
}

TEST("fake: large pieces of the host are a copy engine's, small ones the kernel's") {
  fault("no cuMemcpyBatchAsync=1");  // a driver before CUDA 12.8
  const auto context = gpu::Context::open(0);
  constexpr uint64_t kPiece = 1 << 20;
  const gpu::Allocation memory(context, 2 * kPiece);
  void* at = mmap(nullptr, kPiece, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  const gpu::HostMemory host(context, at, kPiece);
  const Data data = pattern(2 * kPiece, 6);
  write(*context, memory.address(), data);
  const std::atomic<bool> cancelled{false};
  const gpu::Shape half{.path = gpu::Path::kToHost, .run_bytes = kPiece / 2};
  const gpu::Batch whole{{{.path = gpu::Path::kToHost, .run_bytes = kPiece},
                          {{memory.address(), host.address()}},
                          {{0, 0}}}};
  const gpu::Batch small{{half, {{memory.address(), host.address()}}, {{0, 0}}}};
  const gpu::Batch gathered{{half,
                             {{memory.address() + kPiece, host.address()},
                              {memory.address(), host.address() + kPiece / 2}},
                             {{0, 0}}}};
  gpu::Copier copier(context, {});
  std::string reason;
  // Without a copy engine: nothing of one piece is begun, and of the other the gathering was.
  fault("cuMemcpyAsync=2");
  copy_now(copier, small);
  has(message_of([&] { copier.submit(whole, {}, cancelled); }, "ERR_KVX_TRANSFER_FAILED"),
      "cuMemcpyAsync failed");
  const auto ticket = copier.submit(gathered, {}, cancelled);
  CHECK(copier.stop(std::chrono::seconds(5)));
  CHECK(copier.poll(ticket, reason) == State::kFailedSettled);
  has(reason, "cuMemcpyAsync failed");
  // A GPU that has no memory for slabs: the kernel does it.
  gpu::Copier without(context, {});
  fault("cuMemAlloc=2,cuMemcpyAsync=2");
  copy_now(without, gathered);
  const auto right = [&] {
    return std::memcmp(at, data.data() + kPiece, kPiece / 2) == 0 &&
           std::memcmp(static_cast<uint8_t*>(at) + kPiece / 2, data.data(), kPiece / 2) == 0;
  };
  CHECK(right());
  // What has failed leaves nothing behind.
  fault("");
  std::memset(at, 0, kPiece);
  copy_now(copier, gathered);
  CHECK(right());
  copy_now(copier, whole);
  CHECK(std::memcmp(at, data.data(), kPiece) == 0);
  CHECK(copier.stop(std::chrono::seconds(5)));
}

TEST("fake: many pieces of the host are one call of a driver that takes batches") {
  const auto context = gpu::Context::open(0);
  constexpr uint64_t kPiece = 256 << 10, kPieces = 4;
  const gpu::Allocation memory(context, kPieces * kPiece);
  void* at =
      mmap(nullptr, kPieces * kPiece, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  const gpu::HostMemory host(context, at, kPieces * kPiece);
  const Data data = pattern(kPieces * kPiece, 7);
  write(*context, memory.address(), data);
  const std::atomic<bool> cancelled{false};
  const auto swapped = [&](uint64_t run_bytes) {
    return gpu::Batch{{{.path = gpu::Path::kToHost,
                        .run_bytes = run_bytes,
                        .source_page_bytes = kPiece,
                        .destination_page_bytes = kPiece},
                       {{memory.address(), host.address()}},
                       {{0, 3}, {1, 2}, {2, 1}, {3, 0}}}};
  };
  const auto arrived = [&](uint64_t run_bytes) {
    for (uint64_t i = 0; i < kPieces; i++) {
      const auto* piece = static_cast<uint8_t*>(at) + (kPieces - 1 - i) * kPiece;
      if (std::memcmp(piece, data.data() + i * kPiece, run_bytes) != 0) return false;
    }
    return true;
  };
  gpu::Copier copier(context, {});
  fault("cuMemcpyAsync=2,kernel=719");
  copy_now(copier, swapped(kPiece));
  CHECK(arrived(kPiece));
  // Of a batch that fails some may have begun: it is settled only when all is over.
  fault("cuMemcpyBatchAsync=2");
  std::string reason;
  const auto ticket = copier.submit(swapped(kPiece), {}, cancelled);
  State state;
  do {
    state = settle(copier, ticket, reason);
  } while (state == State::kFailed);
  CHECK(state == State::kFailedSettled);
  has(reason, "cuMemcpyBatchAsync failed");
  std::memset(at, 0, kPieces * kPiece);
  copy_now(copier, swapped(kPiece / 2));
  CHECK(arrived(kPiece / 2) && !arrived(kPiece));
  CHECK(copier.stop(std::chrono::seconds(5)));
}

TEST("fake: what would be launched at once is refused by a driver as before, and not at all late") {
  const auto context = gpu::Context::open(0);
  const gpu::Allocation memory(context, 1 << 20);
  gpu::Copier copier(context, {});
  const auto batch = copy(memory.address(), memory.address() + 8192, 4096);
  fault("cuLaunchKernel=701");
  has(message_of([&] { copier.submit_now(batch); }, "ERR_KVX_TRANSFER_FAILED"),
      "cuLaunchKernel failed");
  // Behind many that do not end another would wait in the driver.
  fault("event=never");
  std::vector<gpu::Copier::Ticket> tickets;
  while (const auto ticket = copier.submit_now(batch)) tickets.push_back(*ticket);
  CHECK(tickets.size() == 64);
  fault("");
  std::string reason;
  for (const auto ticket : tickets) CHECK(settle(copier, ticket, reason) == State::kDone);
  CHECK(copier.submit_now(batch));
  CHECK(copier.stop(std::chrono::seconds(5)));
  context->fail("a copy", 719);
  CHECK(!copier.submit_now(batch));
}

TEST("fake: a submit that waits for room ends when it is cancelled") {
  const auto context = gpu::Context::open(0);
  const gpu::Allocation memory(context, 1 << 20);
  gpu::Copier copier(context, {});
  fault("event=never");
  gpu::Section section{{.path = gpu::Path::kSameGpu, .run_bytes = 16}, {}, {{0, 0}}};
  for (uint64_t i = 0; i < 30'000; i++) {
    section.lanes.push_back({memory.address(), memory.address() + 16});
  }
  const std::atomic<bool> going{false}, cancelled{true};
  for (int i = 0; i < 4; i++) copier.submit({section}, {}, going);
  has(message_of([&] { copier.submit({section}, {}, cancelled); }, "ERR_KVX_ABORTED"),
      "cancelled before it was launched");
  fault("");
  CHECK(copier.stop(std::chrono::seconds(60)));
}

TEST("a digest that fails says why") {
  const auto context = gpu::Context::open(0);
  DigestJob job{.page_tokens = 1,
                .tensors = {0, 0, 64, 1, 1, 0, 64, 64, 64, 64, 64},
                .keys = {1},
                .runs = {0, 0, 1, 0}};
  const DigestMemory nowhere[] = {{reinterpret_cast<const uint8_t*>(4096), 4096}};
  const std::atomic<bool> stop{false};
  has(message_of([&] { gpu::digest(context, job, check_digest_job(job, nowhere), nowhere, stop); },
                 "ERR_KVX_INTERNAL"),
      "CUDA_ERROR_ILLEGAL_ADDRESS");
}
