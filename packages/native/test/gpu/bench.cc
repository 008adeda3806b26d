// gpu --bench full|small: bandwidth of the copy kernel, a line of JSON per measurement. One
// process.
#include "bench.h"

#include <cstdio>

#include "pools.h"

namespace {

// As a prefill's chunks follow each other.
constexpr unsigned kInARow = 8;

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

void finish(gpu::Copier& copier, gpu::Copier::Ticket ticket) {
  std::string reason;
  State state = State::kPending;
  while (state == State::kPending) state = copier.poll(ticket, reason);
  if (state != State::kDone) throw std::runtime_error(reason);
  copier.release(ticket);
}

// `measured` is of one copy.
void report(const char* path, uint64_t total, uint64_t run, unsigned sms, unsigned in_a_row,
            const Measured& measured) {
  std::printf(
      "{\"path\":\"%s\",\"total\":%llu,\"run\":%llu,\"sms\":%u,\"inARow\":%u,\"gbps\":%.3f,"
      "\"us\":%.2f,\"submitUs\":%.2f}\n",
      path, static_cast<unsigned long long>(total), static_cast<unsigned long long>(run), sms,
      in_a_row, static_cast<double>(total) / measured.us / 1e3, measured.us, measured.submit_us);
  std::fflush(stdout);
}

void bench_path(const std::shared_ptr<gpu::Context>& context, const Ends& ends,
                const std::vector<uint64_t>& totals, const std::vector<unsigned>& sms_list) {
  const gpu::Context::Current current(*context);
  const gpu::Api& api = context->api();
  const gpu::detail::Stream stream(*context, "BENCH");
  const gpu::detail::Event event(*context, "BENCH");
  for (const uint64_t total : totals) {
    const int rounds = total > (uint64_t{256} << 20) ? 5 : 9;
    report(ends.name, total, 0, 0, 1,
           measure(
               [&](double& submitted) {
                 must(api.copy_async(ends.to, ends.from, total, stream.get()));
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
        if (total < 64 * run) continue;
        const gpu::Batch batch = scattered(ends, total, run).front();
        const int rounds = total > (uint64_t{256} << 20) ? 3 : 7;
        for (const unsigned in_a_row : {1U, kInARow}) {
          if (in_a_row > 1 && total > (uint64_t{64} << 20)) continue;
          const auto once = [&](double& submitted) {
            std::vector<gpu::Copier::Ticket> tickets;
            while (tickets.size() < in_a_row)
              tickets.push_back(copier.submit(batch, {}, cancelled));
            submitted = now_us();
            for (const auto ticket : tickets) finish(copier, ticket);
          };
          const auto [us, submit_us] = measure(once, rounds);
          report(ends.name, total, run, sms, in_a_row, {us / in_a_row, submit_us / in_a_row});
        }
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
  const Pools pools(pool, host_pool);
  for (const Ends& ends : pools.paths()) {
    const bool within = ends.path == gpu::Path::kSameGpu, peer = ends.path == gpu::Path::kPeer;
    const std::vector<unsigned> sms = within ? std::vector<unsigned>{8, 16, 32, 64, 132}
                                      : peer ? std::vector<unsigned>{4, 8, 16, 32, 64, 132}
                                             : std::vector<unsigned>{1, 2, 4};
    bench_path(pools.context(), ends, within || peer ? totals : host_totals, sms);
  }
  return 0;
}
