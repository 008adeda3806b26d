// Reading and making ELF shared objects, as far as loading a Python extension outside of Python
// needs it.
//
// mooncake/engine.so of a wheel is a CPython extension. Its functions bind lazily, so nearly all of
// the interpreter may be absent; only the data it points to (`PyType_Type` and some 30 others) must
// exist when it is loaded. Which ones is written in the file itself. So a library with exactly
// those symbols is made in memory for the very file that is about to be loaded: no compiler, no
// Python and no fixed list of symbols is needed.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kvx/driver.h"

namespace kvx::mooncake {

// What is asked of a shared object before it is loaded.
class ElfFile {
 public:
  // Throws DriverError when it is no 64-bit little-endian shared object of this machine.
  explicit ElfFile(const std::string& path);

  bool defines(std::string_view symbol) const;
  // Undefined symbols that must be there when the file is loaded, also with lazy binding.
  std::vector<std::string> wanted_at_load() const;
  // Names in its DT_NEEDED.
  std::vector<std::string> needed() const;
  // Whether the bytes occur anywhere in the file.
  bool contains(std::string_view text) const { return bytes_.find(text) != std::string::npos; }

 private:
  struct Symbol {
    std::string name;
    bool defined;
  };
  std::string bytes_;
  std::vector<Symbol> symbols_;
  std::vector<std::string> needed_;
  std::vector<uint32_t> relocated_;  // symbol numbers that load-time relocations name
};

struct StandIn {
  std::string soname;
  std::vector<std::string> needed;     // loaded together with it; a path is allowed
  std::vector<std::string> data;       // each 512 zero bytes
  std::vector<std::string> functions;  // each returns `result`
  int32_t result = 0;
};

// The bytes of a shared object with these symbols.
std::string make_stand_in(const StandIn& stand_in);

// dlopen(RTLD_LAZY | RTLD_LOCAL) of a shared object in memory. Throws DriverError.
void* load_image(const std::string& image, const std::string& name);

}  // namespace kvx::mooncake
