// MORI's control port is plain TCP over IPv4. These ask the network first, bounded, where MORI
// would end the process or wait.
#pragma once

#include <atomic>
#include <string>

#include "kvx/driver.h"

namespace kvx::mori {

// Why no server can listen on this address; empty when one can.
std::string cannot_listen(const std::string& host);

// Why nobody answers there by the deadline; empty when somebody does.
std::string cannot_reach(const std::string& host, int port, Clock::time_point deadline,
                         const std::atomic<bool>& cancelled);

}  // namespace kvx::mori
