#include "adopt_gpu.h"
#include "digest.h"
#include "gpu.h"
#include "memory.h"
#include "plan_tool.h"
#include "staging.h"
#include "tokens.h"

static Napi::Object Init(Napi::Env env, Napi::Object exports) {
  kvx::export_adopt_gpu(env, exports);
  kvx::export_digest(env, exports);
  kvx::export_gpu(env, exports);
  kvx::export_memory(env, exports);
  kvx::export_plan_tool(env, exports);
  kvx::export_staging(env, exports);
  kvx::export_tokens(env, exports);
  return exports;
}

NODE_API_MODULE(kvx_native, Init)
