#include "elf.h"

#include <dlfcn.h>
#include <elf.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>

namespace kvx::mooncake {
namespace {

#if defined(__x86_64__)
constexpr Elf64_Half kMachine = EM_X86_64;
// mov eax, result; ret
std::string function_body(int32_t result) {
  std::string code(6, '\0');
  code[0] = '\xb8';
  std::memcpy(&code[1], &result, sizeof result);
  code[5] = '\xc3';
  return code;
}
#elif defined(__aarch64__)
constexpr Elf64_Half kMachine = EM_AARCH64;
// movz or movn w0, #value; ret. Enough for results that fit into 16 bits.
std::string function_body(int32_t result) {
  const uint32_t move = result < 0 ? 0x12800000u | (static_cast<uint32_t>(~result) & 0xffff) << 5
                                   : 0x52800000u | (static_cast<uint32_t>(result) & 0xffff) << 5;
  const uint32_t code[2] = {move, 0xd65f03c0u};
  return std::string(reinterpret_cast<const char*>(code), sizeof code);
}
#else
#error "Mooncake's wheels exist for x86-64 and arm64 only"
#endif

constexpr uint64_t kPage = 65536;  // the largest page size of the two machines
constexpr uint64_t kDataBytes = 512;

[[noreturn]] void refuse(const std::string& path, const std::string& why) {
  throw DriverError("ERR_KVX_BACKEND_UNAVAILABLE", path + " " + why);
}

template <typename T>
T read_at(const std::string& bytes, uint64_t offset, const std::string& path) {
  if (offset > bytes.size() || bytes.size() - offset < sizeof(T)) refuse(path, "is cut short");
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

// Collects strings; answers their offsets.
class Strings {
 public:
  uint32_t add(const std::string& text) {
    const auto at = static_cast<uint32_t>(bytes_.size());
    bytes_ += text;
    bytes_ += '\0';
    return at;
  }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_ = std::string(1, '\0');
};

template <typename T>
void append(std::string& bytes, const T& value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void align(std::string& bytes, size_t to) {
  bytes.resize((bytes.size() + to - 1) / to * to);
}

}  // namespace

ElfFile::ElfFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) refuse(path, std::string("cannot be read: ") + std::strerror(errno));
  bytes_.assign(std::istreambuf_iterator<char>(file), {});
  const auto header = read_at<Elf64_Ehdr>(bytes_, 0, path);
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_ident[EI_CLASS] != ELFCLASS64 ||
      header.e_ident[EI_DATA] != ELFDATA2LSB || header.e_type != ET_DYN) {
    refuse(path, "is no shared library");
  }
  if (header.e_machine != kMachine) refuse(path, "was built for another kind of processor");

  struct Load {
    uint64_t address, offset, bytes;
  };
  std::vector<Load> loads;
  uint64_t dynamic = 0, dynamic_bytes = 0;
  for (uint32_t i = 0; i < header.e_phnum; i++) {
    const auto segment =
        read_at<Elf64_Phdr>(bytes_, header.e_phoff + uint64_t{i} * sizeof(Elf64_Phdr), path);
    if (segment.p_type == PT_LOAD) {
      loads.push_back({segment.p_vaddr, segment.p_offset, segment.p_filesz});
    }
    if (segment.p_type == PT_DYNAMIC) {
      dynamic = segment.p_offset;
      dynamic_bytes = segment.p_filesz;
    }
  }
  const auto offset_of = [&](uint64_t address) -> uint64_t {
    for (const Load& load : loads) {
      if (address >= load.address && address - load.address < load.bytes) {
        return load.offset + (address - load.address);
      }
    }
    refuse(path, "points outside of itself");
  };

  uint64_t strings = 0, symbols = 0, relocations = 0, relocation_bytes = 0, strings_bytes = 0;
  std::vector<uint64_t> needed;
  for (uint64_t at = 0; at + sizeof(Elf64_Dyn) <= dynamic_bytes; at += sizeof(Elf64_Dyn)) {
    const auto entry = read_at<Elf64_Dyn>(bytes_, dynamic + at, path);
    if (entry.d_tag == DT_NULL) break;
    if (entry.d_tag == DT_STRTAB) strings = entry.d_un.d_ptr;
    if (entry.d_tag == DT_STRSZ) strings_bytes = entry.d_un.d_val;
    if (entry.d_tag == DT_SYMTAB) symbols = entry.d_un.d_ptr;
    if (entry.d_tag == DT_RELA) relocations = entry.d_un.d_ptr;
    if (entry.d_tag == DT_RELASZ) relocation_bytes = entry.d_un.d_val;
    if (entry.d_tag == DT_NEEDED) needed.push_back(entry.d_un.d_val);
  }
  if (strings == 0 || symbols == 0 || strings_bytes == 0) refuse(path, "has no dynamic symbols");
  const uint64_t strings_at = offset_of(strings);
  if (strings_at > bytes_.size() || bytes_.size() - strings_at < strings_bytes) {
    refuse(path, "is cut short");
  }
  const auto text = [&](uint64_t at) -> std::string {
    if (at >= strings_bytes) refuse(path, "is damaged: a name lies outside its string table");
    const char* begin = bytes_.data() + strings_at + at;
    return std::string(begin, strnlen(begin, strings_bytes - at));
  };
  for (const uint64_t at : needed) needed_.push_back(text(at));

  // The number of dynamic symbols is only written down in the section headers; a library's are
  // never stripped.
  uint64_t count = 0;
  for (uint32_t i = 0; i < header.e_shnum; i++) {
    const auto section =
        read_at<Elf64_Shdr>(bytes_, header.e_shoff + uint64_t{i} * sizeof(Elf64_Shdr), path);
    if (section.sh_type == SHT_DYNSYM) count = section.sh_size / sizeof(Elf64_Sym);
  }
  const uint64_t symbols_at = offset_of(symbols);
  for (uint64_t i = 0; i < count; i++) {
    const auto symbol = read_at<Elf64_Sym>(bytes_, symbols_at + i * sizeof(Elf64_Sym), path);
    symbols_.push_back({text(symbol.st_name), symbol.st_shndx != SHN_UNDEF});
  }
  if (relocation_bytes == 0) return;
  const uint64_t relocations_at = offset_of(relocations);
  for (uint64_t at = 0; at + sizeof(Elf64_Rela) <= relocation_bytes; at += sizeof(Elf64_Rela)) {
    const auto relocation = read_at<Elf64_Rela>(bytes_, relocations_at + at, path);
    const auto number = static_cast<uint32_t>(ELF64_R_SYM(relocation.r_info));
    if (number != 0 && number < symbols_.size()) relocated_.push_back(number);
  }
}

bool ElfFile::defines(std::string_view symbol) const {
  for (const Symbol& one : symbols_) {
    if (one.defined && one.name == symbol) return true;
  }
  return false;
}

std::vector<std::string> ElfFile::wanted_at_load() const {
  std::vector<bool> seen(symbols_.size());
  std::vector<std::string> names;
  for (const uint32_t number : relocated_) {
    if (seen[number] || symbols_[number].defined) continue;
    seen[number] = true;
    names.push_back(symbols_[number].name);
  }
  return names;
}

std::vector<std::string> ElfFile::needed() const {
  return needed_;
}

// One read-only and executable segment with all tables and code, one writable segment for the data.
std::string make_stand_in(const StandIn& stand_in) {
  Strings strings;
  std::vector<Elf64_Dyn> dynamic;
  const auto entry = [&](int64_t tag, uint64_t value) {
    Elf64_Dyn one{};
    one.d_tag = tag;
    one.d_un.d_val = value;
    dynamic.push_back(one);
  };
  for (const std::string& name : stand_in.needed) entry(DT_NEEDED, strings.add(name));
  entry(DT_SONAME, strings.add(stand_in.soname));

  const std::string body = function_body(stand_in.result);
  const size_t body_step = (body.size() + 15) / 16 * 16;
  const uint32_t count =
      static_cast<uint32_t>(1 + stand_in.data.size() + stand_in.functions.size());
  std::vector<Elf64_Sym> symbols(1);
  std::vector<uint32_t> names;
  for (const auto& name : stand_in.data) names.push_back(strings.add(name));
  for (const auto& name : stand_in.functions) names.push_back(strings.add(name));

  std::string image(sizeof(Elf64_Ehdr) + 4 * sizeof(Elf64_Phdr), '\0');
  // A hash table with a single bucket: one chain through all symbols.
  const uint64_t hash_at = image.size();
  append(image, uint32_t{1});
  append(image, count);
  append(image, uint32_t{count > 1 ? 1u : 0u});
  for (uint32_t i = 0; i < count; i++) append(image, uint32_t{i > 0 && i + 1 < count ? i + 1 : 0});
  align(image, 8);
  const uint64_t symbols_at = image.size();
  image.resize(image.size() + count * sizeof(Elf64_Sym));
  const uint64_t strings_at = image.size();
  image += strings.bytes();
  align(image, 16);
  const uint64_t code_at = image.size();
  for (size_t i = 0; i < stand_in.functions.size(); i++) {
    image += body;
    image.resize(code_at + (i + 1) * body_step);
  }
  align(image, 8);
  const uint64_t read_only_bytes = image.size();
  align(image, kPage);
  const uint64_t dynamic_at = image.size();
  entry(DT_HASH, hash_at);
  entry(DT_SYMTAB, symbols_at);
  entry(DT_SYMENT, sizeof(Elf64_Sym));
  entry(DT_STRTAB, strings_at);
  entry(DT_STRSZ, strings.bytes().size());
  entry(DT_NULL, 0);
  for (const Elf64_Dyn& one : dynamic) append(image, one);
  align(image, 16);
  const uint64_t data_at = image.size();  // not in the file: zero-filled by the loader

  for (size_t i = 0; i < names.size(); i++) {
    Elf64_Sym symbol{};
    symbol.st_name = names[i];
    const bool is_data = i < stand_in.data.size();
    symbol.st_info = ELF64_ST_INFO(STB_GLOBAL, is_data ? STT_OBJECT : STT_FUNC);
    symbol.st_shndx =
        is_data ? 2 : 1;  // any defined section: the loader only asks whether it is one
    symbol.st_value =
        is_data ? data_at + i * kDataBytes : code_at + (i - stand_in.data.size()) * body_step;
    symbol.st_size = is_data ? kDataBytes : body.size();
    symbols.push_back(symbol);
  }
  std::memcpy(&image[symbols_at], symbols.data(), symbols.size() * sizeof(Elf64_Sym));

  Elf64_Ehdr header{};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_ident[EI_VERSION] = EV_CURRENT;
  header.e_type = ET_DYN;
  header.e_machine = kMachine;
  header.e_version = EV_CURRENT;
  header.e_phoff = sizeof header;
  header.e_ehsize = sizeof header;
  header.e_phentsize = sizeof(Elf64_Phdr);
  header.e_phnum = 4;
  header.e_shentsize = sizeof(Elf64_Shdr);
  std::memcpy(&image[0], &header, sizeof header);

  const auto segment = [&](size_t number, uint32_t type, uint32_t flags, uint64_t at,
                           uint64_t file_bytes, uint64_t memory_bytes, uint64_t alignment) {
    Elf64_Phdr one{};
    one.p_type = type;
    one.p_flags = flags;
    one.p_offset = one.p_vaddr = one.p_paddr = at;
    one.p_filesz = file_bytes;
    one.p_memsz = memory_bytes;
    one.p_align = alignment;
    std::memcpy(&image[sizeof header + number * sizeof one], &one, sizeof one);
  };
  const uint64_t dynamic_bytes = dynamic.size() * sizeof(Elf64_Dyn);
  segment(0, PT_LOAD, PF_R | PF_X, 0, read_only_bytes, read_only_bytes, kPage);
  segment(1, PT_LOAD, PF_R | PF_W, dynamic_at, data_at - dynamic_at,
          data_at - dynamic_at + stand_in.data.size() * kDataBytes, kPage);
  segment(2, PT_DYNAMIC, PF_R | PF_W, dynamic_at, dynamic_bytes, dynamic_bytes, 8);
  // Without it the loader would make the stack executable.
  segment(3, PT_GNU_STACK, PF_R | PF_W, 0, 0, 0, 16);
  return image;
}

void* load_image(const std::string& image, const std::string& name) {
  const int fd = memfd_create(name.c_str(), MFD_CLOEXEC);
  if (fd < 0) {
    throw DriverError("ERR_KVX_BACKEND_UNAVAILABLE",
                      std::string("No memory file could be made: ") + std::strerror(errno));
  }
  size_t written = 0;
  while (written < image.size()) {
    const ssize_t part = write(fd, image.data() + written, image.size() - written);
    if (part < 0 && errno == EINTR) continue;
    if (part <= 0) break;
    written += static_cast<size_t>(part);
  }
  const std::string path = "/proc/self/fd/" + std::to_string(fd);
  void* handle = written == image.size() ? dlopen(path.c_str(), RTLD_LAZY | RTLD_LOCAL) : nullptr;
  const char* reason = handle ? nullptr : dlerror();
  // The descriptor stays open when it worked: the loader remembers the library by this path, and
  // would take another one at the same path for it.
  if (handle) return handle;
  close(fd);
  throw DriverError("ERR_KVX_BACKEND_UNAVAILABLE", reason ? reason : "The memory file is full.");
}

}  // namespace kvx::mooncake
