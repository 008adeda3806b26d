#include "kvx/addon.h"

#include "driver.h"
#include "library.h"
#include "self_test.h"

namespace {

// check(path, needsAll): loads the library and tests it. Meant for a process that may die of it.
Napi::Value check(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  auto result = Napi::Object::New(env);
  try {
    auto& library = kvx::mooncake::load_library(info[0].As<Napi::String>(), info[1].ToBoolean());
    const size_t request_bytes = kvx::mooncake::self_test(library);
    auto stand_ins = Napi::Array::New(env);
    for (const std::string& name : library.stand_ins) stand_ins[stand_ins.Length()] = name;
    const bool c_functions = library.face == kvx::mooncake::Face::kCFunctions;
    result.Set("face", c_functions ? "c" : "c++");
    result.Set("requestBytes", static_cast<double>(request_bytes));
    result.Set("standIns", stand_ins);
    auto kinds = Napi::Array::New(env);
    for (const std::string& kind : library.memory_kinds) kinds[kinds.Length()] = kind;
    result.Set("memoryKinds", kinds);
  } catch (const std::exception& error) {
    result.Set("reason", error.what());
  }
  return result;
}

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  kvx::register_engine(env, exports, kvx::mooncake::make_driver);
  exports.Set("check", Napi::Function::New(env, check, "check"));
  return exports;
}

}  // namespace

NODE_API_MODULE(kvx_mooncake, Init)
