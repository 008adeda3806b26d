#include <unistd.h>

#include "kvx/gpu/export.h"
#include "writer.h"

namespace {

constexpr size_t kBytes = 4 << 20;
constexpr int kFile = gpu::kFileDescriptor;

// Shares a part of what `allocate` makes with a process on every GPU there is, and compares what
// that one wrote, and that it wrote nothing beside it.
void share_with_everyone(const std::function<gpu::Address(gpu::Context&)>& allocate,
                         gpu::ShareKind kind, size_t parts = 1) {
  const int gpus = two_gpus() ? 2 : 1;
  for (int owner = 0; owner < gpus; owner++) {
    const auto context = gpu::Context::open(owner);
    const gpu::Address address = allocate(*context);
    for (int other = 0; other < gpus; other++) {
      Writer process(other);
      constexpr size_t kBefore = 65536 + 256, kLength = kBytes - 3 * 65536;
      const Data clean(kBytes, 0xee);
      write(*context, address, clean);
      const gpu::Shared shared = gpu::share(*context, address + kBefore, kLength);
      CHECK(shared.kind == kind && shared.parts.size() == parts);
      CHECK(process.write_pattern(shared, 7) == "");
      const Data found = read(*context, address, kBytes);
      const Data expected = pattern(kLength, 7);
      CHECK(std::equal(expected.begin(), expected.end(), found.begin() + kBefore));
      CHECK(std::all_of(found.begin(), found.begin() + kBefore, [](auto b) { return b == 0xee; }));
      CHECK(std::all_of(found.begin() + kBefore + kLength, found.end(),
                        [](auto b) { return b == 0xee; }));
    }
  }
}

std::string refusal(gpu::Context& context, gpu::Address address, uint64_t bytes) {
  return message_of([&] { gpu::share(context, address, bytes); }, "ERR_KVX_MEMORY");
}

}  // namespace

TEST(
    "memory of cudaMalloc is shared by its handle, and another process on any GPU writes into it") {
  share_with_everyone([](auto& context) { return allocate_plain(context, kBytes); },
                      gpu::ShareKind::kLegacy);
}

TEST(
    "memory of cuMemCreate is shared by a descriptor, and another process on any GPU writes into "
    "it") {
  share_with_everyone([](auto& context) { return allocate_mapped(context, kBytes, 1, kFile); },
                      gpu::ShareKind::kFile);
}

TEST("a range over several allocations side by side is shared as one") {
  share_with_everyone([](auto& context) { return allocate_mapped(context, kBytes / 2, 2, kFile); },
                      gpu::ShareKind::kFile, 2);
}

TEST(
    "memory of a pool with handles is shared by the pool, and another process on any GPU writes "
    "into it") {
  share_with_everyone([](auto& context) { return allocate_pooled(context, kBytes, kFile); },
                      gpu::ShareKind::kPool);
}

TEST("memory that kvx allocates is zeroed, and another process on any GPU writes into it") {
  std::vector<std::unique_ptr<gpu::Allocation>> kept;
  share_with_everyone(
      [&](auto& context) {
        kept.push_back(
            std::make_unique<gpu::Allocation>(gpu::Context::open(context.ordinal()), kBytes));
        CHECK(read(context, kept.back()->address(), kBytes) == Data(kBytes, 0));
        return kept.back()->address();
      },
      gpu::ShareKind::kFile);
}

TEST("a descriptor or a handle that the host hands over is shared without a context") {
  const auto context = gpu::Context::open(0);
  const gpu::Uuid uuid = gpu::uuid_of(gpu::cuda(), 0);
  Writer process(0);
  {
    const gpu::Address address = allocate_mapped(*context, kBytes, 1, kFile);
    const gpu::Shared derived = gpu::share(*context, address, kBytes);
    const gpu::Shared given =
        gpu::share_file(uuid, derived.parts[0].file.get(), 1 << 20, kBytes - (1 << 20));
    CHECK(process.write_pattern(given, 3) == "");
    CHECK(read(*context, address + (1 << 20), given.bytes) == pattern(given.bytes, 3));
  }
  {
    const gpu::Address address = allocate_plain(*context, kBytes);
    const gpu::Shared derived = gpu::share(*context, address, kBytes);
    const gpu::Shared given = gpu::share_handle(uuid, derived.parts[0].handle, 4096, 8192);
    CHECK(process.write_pattern(given, 4) == "");
    CHECK(read(*context, address + 4096, 8192) == pattern(8192, 4));
  }
}

TEST("memory that cannot be shared is refused with the reason and what to do") {
  const auto context = gpu::Context::open(0);
  has(refusal(*context, allocate_mapped(*context, kBytes, 1, 0), kBytes),
      "cuMemCreate without a file descriptor");
  has(refusal(*context, allocate_pooled(*context, kBytes, 0), kBytes),
      "from a pool that cannot be shared");
  has(refusal(*context, allocate_plain(*context, kBytes), kBytes + 1), "beyond its allocation");
  static int on_the_stack = 0;
  has(refusal(*context, reinterpret_cast<gpu::Address>(&on_the_stack), 4),
      "not one of GPU memory that CUDA knows");
  const gpu::Address mapped = allocate_mapped(*context, kBytes, 1, kFile);
  has(refusal(*context, mapped + kBytes / 2, kBytes), "has a hole");
}

TEST("memory of another GPU than the one named is refused") {
  if (!two_gpus()) return;
  const auto first = gpu::Context::open(0), second = gpu::Context::open(1);
  has(refusal(*first, allocate_plain(*second, kBytes), kBytes), "The memory is on GPU 1");
}

TEST("what is shared survives its encoding, and anything else is refused") {
  const auto context = gpu::Context::open(0);
  for (const gpu::Address address :
       {allocate_plain(*context, kBytes), allocate_mapped(*context, kBytes / 2, 2, kFile),
        allocate_pooled(*context, kBytes, kFile)}) {
    const gpu::Shared shared = gpu::share(*context, address + 512, kBytes - 1024);
    const Bytes bytes = gpu::encode(shared);
    CHECK(gpu::encode(gpu::decode(bytes)) == bytes);
    for (size_t length = 0; length < bytes.size(); length++) {
      has(message_of([&] { gpu::decode(std::span(bytes).first(length)); },
                     "ERR_KVX_CONNECT_FAILED"),
          "malformed");
    }
    Bytes longer = bytes;
    longer.push_back(0);
    has(message_of([&] { gpu::decode(longer); }, "ERR_KVX_CONNECT_FAILED"), "malformed");
  }
}

TEST("a range that reaches beyond what its owner shares is not decoded") {
  const auto context = gpu::Context::open(0);
  gpu::Shared shared = gpu::share(*context, allocate_plain(*context, kBytes), kBytes);
  shared.offset = 1;
  has(message_of([&] { gpu::decode(gpu::encode(shared)); }, "ERR_KVX_CONNECT_FAILED"), "malformed");
  shared.offset = ~uint64_t{0};
  has(message_of([&] { gpu::decode(gpu::encode(shared)); }, "ERR_KVX_CONNECT_FAILED"), "malformed");
}

TEST("memory of the own process cannot be mapped by its handle, and the message says whose it is") {
  const auto context = gpu::Context::open(0);
  gpu::Importer importer(context);
  const gpu::Shared shared = gpu::share(*context, allocate_plain(*context, kBytes), kBytes);
  has(message_of([&] { importer.map(shared); }, "ERR_KVX_CONNECT_FAILED"),
      "The memory of " + gpu::text(context->uuid()) + " cannot be mapped for GPU 0");
}
