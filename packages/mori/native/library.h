// Finds and loads MORI with what it needs. Nothing of it is linked: the addon loads on any machine,
// and what is missing is told with its reason.
#pragma once

#include <string>
#include <vector>

#include "abi.h"

namespace kvx::mori {

// A shared library MORI needs, and whether it is here.
struct Dependency {
  std::string soname;
  std::string package;  // the Debian package that holds it; empty: part of ROCm
  std::string problem;  // why it could not be loaded; empty: loaded
};

// What MORI's libraries are linked with. Loads them, so call it in a process of its own when only
// asking.
std::vector<Dependency> check_dependencies();

// Why ROCm's system management library cannot be used; empty when it starts and counts a GPU. MORI
// ends the process where it cannot, and a bad library may do so here: call it in a process of its
// own.
std::string check_rocm_smi();

struct LoadOptions {
  std::string mori;       // path of libmori_io.so
  std::string stand_ins;  // folder with kvx's stand-ins for ROCm's libraries
  std::string verbs;      // a libibverbs to use instead of the machine's; empty: the machine's
};

// Loads MORI, with stand-ins for ROCm's libraries that are not here, and tests it. Once per
// process: later calls return the same, and throw DriverError when they name another library.
const Api& load(const LoadOptions& options);

}  // namespace kvx::mori
