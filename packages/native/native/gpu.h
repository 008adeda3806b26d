// GPUs and their memory, for JavaScript.
#pragma once

#include "kvx/napi.h"

namespace kvx {

void export_gpu(Napi::Env env, Napi::Object exports);

}  // namespace kvx
