#pragma once

#include <dlfcn.h>

#include <string>

#include "kvx/driver.h"

namespace kvx::mooncake {

template <typename Function>
void resolve(void* library, const char* name, Function*& function) {
  function = reinterpret_cast<Function*>(dlsym(library, name));
  if (function) return;
  throw DriverError("ERR_KVX_BACKEND_UNAVAILABLE",
                    std::string("The library lacks the symbol ") + name +
                        ": it is older or newer than what kvx knows.");
}

}  // namespace kvx::mooncake
