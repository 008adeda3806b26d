#include "gpus.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <thread>
#include <vector>

namespace kvx::shm {

namespace {

constexpr unsigned kWithoutTiming = 2;
// A recorded event is asked for at intervals that grow from the first to the longest: a chunk of a
// prompt takes milliseconds.
constexpr std::chrono::microseconds kFirstPause{10}, kLongestPause{100};

const gpu::Devices& all_devices() {
  static const auto& found = *new gpu::Devices(gpu::devices());
  return found;
}

// An event that stands for what a stream was given so far.
class Mark {
 public:
  Mark(gpu::Context& context, uint64_t stream) : context_(context) {
    const auto handle = reinterpret_cast<gpu::StreamHandle>(stream);
    const gpu::Result made = context.api().event_create(&event_, kWithoutTiming);
    result_ = made == gpu::kOk ? context.api().event_record(event_, handle) : made;
  }
  ~Mark() {
    if (event_ != nullptr) context_.api().event_destroy(event_);
  }
  Mark(const Mark&) = delete;
  Mark& operator=(const Mark&) = delete;

  gpu::Result result() const { return result_; }
  gpu::EventHandle event() const { return event_; }

 private:
  gpu::Context& context_;
  gpu::EventHandle event_ = nullptr;
  gpu::Result result_;
};

void wait_for_event(gpu::Context& context, gpu::EventHandle event,
                    const std::atomic<bool>& cancelled) {
  auto pause = kFirstPause;
  for (;;) {
    const gpu::Result result = context.api().event_query(event);
    if (result == gpu::kOk) return;
    if (result != gpu::kNotReady) {
      throw DriverError("ERR_KVX_TRANSFER_FAILED",
                        "What the transfer must come after cannot be waited for: " +
                            context.failed("cuEventQuery", result) + ".");
    }
    if (cancelled) throw DriverError("ERR_KVX_ABORTED", "The transfer was cancelled.");
    std::this_thread::sleep_for(pause);
    pause = std::min(pause * 2, kLongestPause);
  }
}

}  // namespace

bool may_have_gpu() {
  const char* library = std::getenv("KVX_CUDA_LIBRARY");
  return (library != nullptr && *library != '\0') || access("/dev/nvidiactl", F_OK) == 0;
}

const gpu::Device& Gpus::device(int ordinal) const {
  const gpu::Devices& found = all_devices();
  if (!found.reason.empty()) {
    throw DriverError("ERR_KVX_MEMORY", "GPU memory cannot be used here: " + found.reason + ".");
  }
  const auto device =
      std::find_if(found.list.begin(), found.list.end(),
                   [&](const gpu::Device& each) { return each.ordinal == ordinal; });
  if (device == found.list.end()) {
    throw DriverError("ERR_KVX_MEMORY", "There is no GPU " + std::to_string(ordinal) +
                                            ": this process sees " +
                                            std::to_string(found.list.size()) +
                                            " (CUDA_VISIBLE_DEVICES decides which).");
  }
  if (device->mps) {
    throw DriverError("ERR_KVX_MEMORY",
                      "GPU " + std::to_string(ordinal) +
                          " is used through MPS, whose server goes on when a process is killed: no "
                          "fence could keep its writes out. Run without MPS.");
  }
  return *device;
}

std::optional<int> Gpus::ordinal_of(const gpu::Uuid& uuid) const {
  for (const gpu::Device& device : all_devices().list) {
    if (device.uuid == uuid) return device.ordinal;
  }
  return std::nullopt;
}

std::shared_ptr<gpu::Context> Gpus::context(int ordinal) {
  const gpu::Device& usable = device(ordinal);
  const std::lock_guard lock(mutex_);
  Used& used = used_[usable.ordinal];
  if (!used.context) used.context = gpu::Context::open(ordinal);
  return used.context;
}

gpu::Copier& Gpus::copier(int ordinal) {
  const auto opened = context(ordinal);
  const std::lock_guard lock(mutex_);
  Used& used = used_.at(ordinal);
  if (!used.copier) used.copier = std::make_unique<gpu::Copier>(opened, sms_);
  return *used.copier;
}

gpu::Copier* Gpus::ready_copier(int ordinal) {
  const std::unique_lock lock(mutex_, std::try_to_lock);
  if (!lock) return nullptr;
  const auto found = used_.find(ordinal);
  return found == used_.end() ? nullptr : found->second.copier.get();
}

void Gpus::wait_for(const After& after, const std::atomic<bool>& cancelled) {
  std::vector<std::shared_ptr<gpu::Context>> contexts;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [ordinal, used] : used_) contexts.push_back(used.context);
  }
  if (contexts.empty()) contexts.push_back(context(0));
  if (after.kind == After::Kind::kEvent) {
    const gpu::Context::Current current(*contexts.front());
    return wait_for_event(*contexts.front(), reinterpret_cast<gpu::EventHandle>(after.handle),
                          cancelled);
  }
  // Of which GPU a stream is it does not say; another one's context refuses to record for it.
  gpu::Result result = gpu::kOk;
  for (const auto& context : contexts) {
    const gpu::Context::Current current(*context);
    const Mark mark(*context, after.handle);
    result = mark.result();
    if (result == gpu::kOk) return wait_for_event(*context, mark.event(), cancelled);
  }
  throw DriverError("ERR_KVX_TRANSFER_FAILED",
                    "What the transfer must come after cannot be waited for: " +
                        contexts.front()->failed("cuEventRecord", result) + ".");
}

std::string Gpus::stop(std::chrono::milliseconds longest) {
  const std::lock_guard lock(mutex_);
  std::string running;
  for (const auto& [ordinal, used] : used_) {
    if (!used.copier || used.copier->stop(longest)) continue;
    const std::string broken = used.context->broken();
    running +=
        (running.empty() ? "" : " ") +
        (broken.empty() ? "Copies of GPU " + std::to_string(ordinal) + " did not end within " +
                              std::to_string(longest.count()) + " ms."
                        : broken + ".");
  }
  return running;
}

}  // namespace kvx::shm
