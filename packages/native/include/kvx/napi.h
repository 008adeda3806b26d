// The only include of node-addon-api, so that every file is compiled with the same defines.
#pragma once

#define NAPI_VERSION 9
#define NAPI_CPP_EXCEPTIONS
// Whatever a callback throws becomes a JavaScript exception. Without it, one that is no Napi::Error
// (no memory, no thread) ends the process.
#define NODE_ADDON_API_CPP_EXCEPTIONS_ALL
// Without it, a worker that is terminated while completions are delivered aborts the process.
#define NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS

#include <napi.h>
