// CRC-32 of pages, on a thread of Node's pool.
#pragma once

#include "kvx/napi.h"

namespace kvx {

void export_checksum(Napi::Env env, Napi::Object exports);

}  // namespace kvx
