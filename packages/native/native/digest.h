// Digests of a logical cache, on a thread of Node's pool.
#pragma once

#include "kvx/napi.h"

namespace kvx {

void export_digest(Napi::Env env, Napi::Object exports);

}  // namespace kvx
