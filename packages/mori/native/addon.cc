#include "kvx/addon.h"

#include <cstdlib>

#include "driver.h"
#include "library.h"

namespace kvx::mori {
namespace {

Napi::Value CheckDependencies(const Napi::CallbackInfo& info) {
  auto list = Napi::Array::New(info.Env());
  for (const Dependency& dependency : check_dependencies()) {
    auto entry = Napi::Object::New(info.Env());
    entry.Set("soname", dependency.soname);
    entry.Set("package", dependency.package);
    entry.Set("problem", dependency.problem);
    list.Set(list.Length(), entry);
  }
  return list;
}

Napi::Value CheckRocmSmi(const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(), check_rocm_smi());
}

// For MORI, which reads its variables with getenv: in a worker thread process.env is only a copy.
// Called on the JavaScript thread, like every other change of the environment by Node.
void SetEnvironment(const Napi::CallbackInfo& info) {
  const std::string name = info[0].As<Napi::String>();
  if (info[1].IsString()) {
    setenv(name.c_str(), info[1].As<Napi::String>().Utf8Value().c_str(), 1);
  } else {
    unsetenv(name.c_str());
  }
}

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  register_engine(
      env, exports,
      [](const Options& options, const DriverContext& context) -> std::unique_ptr<Driver> {
        return std::make_unique<MoriDriver>(options, context);
      });
  exports.Set("checkDependencies", Napi::Function::New(env, CheckDependencies));
  exports.Set("checkRocmSmi", Napi::Function::New(env, CheckRocmSmi));
  exports.Set("setEnvironment", Napi::Function::New(env, SetEnvironment));
  return exports;
}

}  // namespace
}  // namespace kvx::mori

static Napi::Object Init(Napi::Env env, Napi::Object exports) {
  return kvx::mori::Init(env, exports);
}

NODE_API_MODULE(kvx_mori, Init)
