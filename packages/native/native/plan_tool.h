// Shows what a plan expands to; for tests and tools. Engines expand on their own threads.
#pragma once

#include "kvx/napi.h"

namespace kvx {

void export_plan_tool(Napi::Env env, Napi::Object exports);

}  // namespace kvx
