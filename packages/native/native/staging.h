// Copies between staging memory and the regions of an engine, on a thread of Node's pool.
#pragma once

#include "kvx/napi.h"

namespace kvx {

void export_staging(Napi::Env env, Napi::Object exports);

}  // namespace kvx
