// Is this library what kvx takes it for? Two engines in this process send bytes to each other over
// TCP, and every byte is compared. For a process of its own, which ends soon: a library that is
// something else may take it down, and what the test makes is left to the end of the process.
#pragma once

#include <cstddef>

#include "library.h"

namespace kvx::mooncake {

// Answers sizeof(TransferRequest), 0 where it does not matter. Throws
// DriverError("ERR_KVX_BACKEND_UNAVAILABLE").
size_t self_test(Library& library);

}  // namespace kvx::mooncake
