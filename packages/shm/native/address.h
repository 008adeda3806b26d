// Where an owner of memory can be found: on which machine, in which PID namespace, behind which
// socket.
#pragma once

#include <string>

#include "kvx/driver.h"

namespace kvx::shm {

struct Address {
  std::string boot_id;  // of the running kernel: another one is another machine, or the same after
                        // a restart
  std::string pid_namespace;  // pidfds are only worth something inside one
  std::string
      socket;  // name in the abstract namespace, so that nothing is ever left in a file system
  Generation generation;

  bool operator==(const Address&) const = default;
};

// The address of this process for an engine of that generation. Throws DriverError when the system
// does not say.
Address address_here(const Generation& generation);

Bytes encode(const Address& address);
// Throws DriverError("ERR_KVX_CONNECT_FAILED") for anything that encode did not make.
Address decode(const Bytes& bytes);

}  // namespace kvx::shm
