// gpu --bench full|small: bandwidth of the copy kernel, a line of JSON per measurement. One
// process; a peer's memory is reached through the access that cuMemSetAccess gives.
#include "bench.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <numeric>
#include <random>

#include "device_memory.h"

namespace {

constexpr size_t kLanes = 64;

struct Measured {
  double us, submit_us;
};

double now_us() {
  return std::chrono::duration<double, std::micro>(Clock::now().time_since_epoch()).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

Measured measure(const std::function<void(double& submitted)>& once, int rounds) {
  std::vector<double> us, submit_us;
  for (int round = 0; round <= rounds; round++) {
    double submitted = 0;
    const double began = now_us();
    once(submitted);
    if (round == 0) continue;  // the first one warms up
    us.push_back(now_us() - began);
    submit_us.push_back(submitted - began);
  }
  return {median(us), median(submit_us)};
}

void report(const char* path, uint64_t total, uint64_t run, unsigned sms,
            const Measured& measured) {
  std::printf(
      "{\"path\":\"%s\",\"total\":%llu,\"run\":%llu,\"sms\":%u,\"gbps\":%.3f,\"us\":%.2f,"
      "\"submitUs\":%.2f}\n",
      path, static_cast<unsigned long long>(total), static_cast<unsigned long long>(run), sms,
      static_cast<double>(total) / measured.us / 1e3, measured.us, measured.submit_us);
  std::fflush(stdout);
}

// 64 lanes, each a region of its own, and pages in random order on both sides.
gpu::Batch scattered(gpu::Path path, gpu::Address from, gpu::Address to, uint64_t pool,
                     uint64_t total, uint64_t run) {
  const uint64_t region = pool / kLanes, pages = total / kLanes / run;
  std::mt19937 random(7);
  std::vector<uint32_t> left(region / run), right(region / run);
  std::iota(left.begin(), left.end(), 0);
  std::iota(right.begin(), right.end(), 0);
  std::shuffle(left.begin(), left.end(), random);
  std::shuffle(right.begin(), right.end(), random);
  gpu::Section section{.shape = {.path = path,
                                 .run_bytes = run,
                                 .source_page_bytes = run,
                                 .destination_page_bytes = run},
                       .lanes = {},
                       .pages = {}};
  for (uint64_t lane = 0; lane < kLanes; lane++) {
    section.lanes.push_back({from + lane * region, to + lane * region});
  }
  for (uint64_t page = 0; page < pages; page++) section.pages.push_back({left[page], right[page]});
  return {section};
}

void bench_path(const std::shared_ptr<gpu::Context>& context, const char* name, gpu::Path path,
                gpu::Address from, gpu::Address to, uint64_t pool,
                const std::vector<uint64_t>& totals, const std::vector<unsigned>& sms_list) {
  const gpu::Context::Current current(*context);
  const gpu::Api& api = context->api();
  const gpu::detail::Stream stream(*context, "BENCH");
  const gpu::detail::Event event(*context, "BENCH");
  for (const uint64_t total : totals) {
    const int rounds = total > (uint64_t{256} << 20) ? 5 : 9;
    report(name, total, 0, 0,
           measure(
               [&](double& submitted) {
                 must(api.copy_async(to, from, total, stream.get()));
                 must(api.event_record(event.get(), stream.get()));
                 submitted = now_us();
                 while (api.event_query(event.get()) == gpu::kNotReady) {
                 }
               },
               rounds));
  }
  const std::atomic<bool> cancelled{false};
  for (const unsigned sms : sms_list) {
    gpu::CopySms budget;
    budget.of.fill(sms);
    gpu::Copier copier(context, budget);
    for (const uint64_t total : totals) {
      for (const uint64_t run : {4096, 16384, 65536, 262144, 1048576}) {
        if (total < kLanes * run) continue;
        const gpu::Batch batch = scattered(path, from, to, pool, total, run);
        std::string reason;
        report(name, total, run, sms,
               measure(
                   [&](double& submitted) {
                     const auto ticket = copier.submit(batch, {}, cancelled);
                     submitted = now_us();
                     State state;
                     while ((state = copier.poll(ticket, reason)) == State::kPending) {
                     }
                     if (state != State::kDone) {
                       throw std::runtime_error(reason);
                     }
                     copier.release(ticket);
                   },
                   total > (uint64_t{256} << 20) ? 3 : 7));
      }
    }
  }
}

}  // namespace

int bench(bool full) {
  const uint64_t pool = full ? uint64_t{4} << 30 : uint64_t{64} << 20;
  const uint64_t small = full ? uint64_t{64} << 20 : uint64_t{4} << 20;
  const std::vector<uint64_t> totals =
      full ? std::vector<uint64_t>{small, uint64_t{1} << 30} : std::vector<uint64_t>{small};
  const std::vector<uint64_t> host_totals =
      full ? std::vector<uint64_t>{small, uint64_t{512} << 20} : totals;
  const uint64_t host_pool = full ? uint64_t{1} << 30 : pool;
  const auto context = gpu::Context::open(0);
  const gpu::Allocation source(context, pool), target(context, pool);
  bench_path(context, "same GPU", gpu::Path::kSameGpu, source.address(), target.address(), pool,
             totals, {8, 16, 32, 64, 132});
  if (two_gpus()) {
    const auto other = gpu::Context::open(1);
    const gpu::Allocation there(other, pool);
    const gpu::Context::Current current(*other);
    const gpu::Access access{.location = context->location()};
    const uint64_t step = uint64_t{2} << 20;
    must(other->api().set_access(there.address(), (pool + step - 1) / step * step, &access, 1));
    bench_path(context, "peer", gpu::Path::kPeer, source.address(), there.address(), pool, totals,
               {4, 8, 16, 32, 132});
  }
  void* at = mmap(nullptr, host_pool, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) throw std::runtime_error("no host memory");
  {
    const gpu::HostMemory host(context, at, host_pool);
    bench_path(context, "to host", gpu::Path::kToHost, source.address(), host.address(), host_pool,
               host_totals, {1, 2, 4});
    bench_path(context, "from host", gpu::Path::kFromHost, host.address(), target.address(),
               host_pool, host_totals, {1, 2, 4});
  }
  munmap(at, host_pool);
  return 0;
}
