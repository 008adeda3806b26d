#include "kvx/gpu/host.h"

#include <sys/mman.h>
#include <unistd.h>

#include "writer.h"

namespace {

constexpr size_t kPage = 4096;

struct Mapped {
  explicit Mapped(size_t bytes) : bytes(bytes) {
    file = memfd_create("pool", MFD_CLOEXEC);
    CHECK(ftruncate(file, static_cast<off_t>(bytes)) == 0);
    data = static_cast<uint8_t*>(mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0));
    CHECK(data != MAP_FAILED);
  }
  ~Mapped() {
    munmap(data, bytes);
    close(file);
  }
  size_t bytes;
  int file;
  uint8_t* data;
};

}  // namespace

TEST("a memory file that two processes map and pin is written by a kernel of the other") {
  constexpr size_t kBytes = 1 << 20;
  const Mapped pool(kBytes);
  const auto context = gpu::Context::open(0);
  const gpu::HostMemory host(context, pool.data, kBytes);
  Writer process(two_gpus() ? 1 : 0);
  CHECK(process.write_pattern(pool.file, kBytes, 5) == "");
  CHECK(Data(pool.data, pool.data + kBytes) == pattern(kBytes, 5));
}

TEST("ranges of host memory that share pages are pinned once, until the last of them ends") {
  const Mapped pool(8 * kPage);
  const auto context = gpu::Context::open(0);
  gpu::Copier copier(context, {});
  const gpu::Allocation target(context, 8 * kPage);
  const auto copies = [&](const gpu::HostMemory& host, size_t bytes) {
    copy_now(copier, {{{.path = gpu::Path::kFromHost, .run_bytes = bytes},
                       {{host.address(), target.address()}},
                       {{0, 0}}}});
  };
  auto first = std::make_unique<gpu::HostMemory>(context, pool.data + 100, 2 * kPage);
  auto second = std::make_unique<gpu::HostMemory>(context, pool.data + 2 * kPage + 100, kPage);
  auto third = std::make_unique<gpu::HostMemory>(context, pool.data, 8 * kPage);
  first.reset();
  copies(*second, kPage);
  copies(*third, 8 * kPage);
  third.reset();
  copies(*second, kPage);
  second.reset();
  // Nothing is left pinned: the host can pin all of it.
  const gpu::Context::Current current(*context);
  CHECK(context->api().host_register(pool.data, pool.bytes, 3) == gpu::kOk);
  const gpu::HostMemory of_the_host(context, pool.data + kPage, kPage);
  copies(of_the_host, kPage);
}
