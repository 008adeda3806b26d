#include "kvx/addon.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <string>

#include "channel.h"
#include "shm_driver.h"

namespace {

// What is missing on this machine; an empty text when nothing is. Opens nothing that stays open.
Napi::Value probe(const Napi::CallbackInfo& info) {
  std::string missing;
  if (!kvx::shm::open_pidfd(getpid())) {
    missing = std::string("pidfd_open: ") + std::strerror(errno);
  }
  return Napi::String::New(info.Env(), missing);
}

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  kvx::register_engine(env, exports,
                       [](const kvx::Options& options,
                          const kvx::DriverContext& context) -> std::unique_ptr<kvx::Driver> {
                         return std::make_unique<kvx::shm::ShmDriver>(options, context);
                       });
  exports.Set("probe", Napi::Function::New(env, probe, "probe"));
  return exports;
}

}  // namespace

NODE_API_MODULE(kvx_shm, Init)
