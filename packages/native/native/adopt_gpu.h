// Memory of a GPU that another process made, for JavaScript.
#pragma once

#include "kvx/napi.h"

namespace kvx {

void export_adopt_gpu(Napi::Env env, Napi::Object exports);

}  // namespace kvx
