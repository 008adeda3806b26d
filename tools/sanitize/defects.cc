// Does what a sanitizer must report: see tools/sanitize.mjs.
#include <node_api.h>

#include <climits>
#include <cstring>
#include <memory>
#include <string>
#include <thread>

namespace {

int shared = 0;

void commit(const std::string& defect) {
  if (defect == "overflow") {
    const auto bytes = std::make_unique<char[]>(16);
    volatile int past = 16;
    bytes[past] = 1;
  } else if (defect == "used after it was freed") {
    volatile char* bytes = new char[16];
    delete[] bytes;
    bytes[0] = 1;
  } else if (defect == "undefined") {
    volatile int most = INT_MAX;
    most = most + 1;
  } else if (defect == "race") {
    std::thread other([] { shared++; });
    shared++;
    other.join();
  }
}

napi_value run(napi_env env, napi_callback_info info) {
  napi_value given;
  size_t count = 1;
  napi_get_cb_info(env, info, &count, &given, nullptr, nullptr);
  char text[64] = "";
  napi_get_value_string_utf8(env, given, text, sizeof text, nullptr);
  commit(text);
  return nullptr;
}

}  // namespace

NAPI_MODULE_INIT() {
  napi_value function;
  napi_create_function(env, "commit", NAPI_AUTO_LENGTH, run, nullptr, &function);
  return function;
}
