// Scatter and gather: copies between a contiguous buffer (a saved model state) and pages, token by
// token.
#pragma once

#include "kvx/napi.h"

namespace kvx {

void export_tokens(Napi::Env env, Napi::Object exports);

}  // namespace kvx
