// A child of a Node process that is forked and not exec'd, as `multiprocessing` of Python makes
// them: it holds what its parent's descriptors hold, and writes where its parent's GPU would.
#include <fcntl.h>
#include <napi.h>
#include <signal.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>

namespace {

// (address, bytes): the child fills the range with growing numbers until it is killed. -> its pid
Napi::Value fork_writing(const Napi::CallbackInfo& info) {
  bool lossless = true;
  auto* to = reinterpret_cast<uint8_t*>(info[0].As<Napi::BigInt>().Uint64Value(&lossless));
  const auto bytes = static_cast<size_t>(info[1].As<Napi::Number>().Int64Value());
  const pid_t child = fork();
  if (child != 0) return Napi::Number::New(info.Env(), child);
  // Its parent's pipes to the test must not stay open: the test waits for their end.
  const int nowhere = open("/dev/null", O_RDWR);
  for (int standard = 0; standard < 3; standard++) dup2(nowhere, standard);
  // Only what is safe after a fork of a process with threads.
  for (uint8_t round = 1;; round++) {
    std::memset(to, round, bytes);
    usleep(1000);
  }
}

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  exports.Set("forkWriting", Napi::Function::New(env, fork_writing, "forkWriting"));
  return exports;
}

}  // namespace

NODE_API_MODULE(fork, Init)
