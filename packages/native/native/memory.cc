#include "memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

#include "kvx/handle.h"

namespace kvx {

namespace {

constexpr unsigned kFlags = MFD_CLOEXEC | MFD_ALLOW_SEALING;

[[noreturn]] void fail(const char* what) {
  throw std::system_error(errno, std::generic_category(), what);
}

uint64_t whole_pages(uint64_t bytes) {
  const auto page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  return (bytes + page - 1) / page * page;
}

}  // namespace

MappedFile::MappedFile(uint64_t bytes)
    : bytes_(bytes), mapped_(whole_pages(bytes)), own_(true), fd_(memfd_create("kvx", kFlags)) {
  if (fd_ < 0) fail("memfd_create");
  try {
    if (ftruncate(fd_, static_cast<off_t>(mapped_)) != 0 ||
        fcntl(fd_, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
      fail("sizing a memory file");
    }
    map();
  } catch (...) {
    close(fd_);
    throw;
  }
}

MappedFile::MappedFile(int file, uint64_t bytes)
    : bytes_(bytes),
      mapped_(whole_pages(bytes)),
      own_(false),
      fd_(fcntl(file, F_DUPFD_CLOEXEC, 0)) {
  if (fd_ < 0) fail("duplicating the descriptor of a memory file");
  try {
    // A file that shrinks under a mapping kills whoever touches the rest.
    const int seals = fcntl(fd_, F_GET_SEALS);
    if (seals < 0 || (seals & F_SEAL_SHRINK) == 0) {
      throw std::invalid_argument("it is no memory file that is sealed against shrinking");
    }
    struct stat status{};
    if (fstat(fd_, &status) != 0) fail("fstat");
    if (static_cast<uint64_t>(status.st_size) < bytes) {
      throw std::invalid_argument("it has only " + std::to_string(status.st_size) + " bytes");
    }
    map();
  } catch (...) {
    close(fd_);
    throw;
  }
}

void MappedFile::map() {
  void* address = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
  if (address == MAP_FAILED) fail("mapping a memory file");
  data_ = static_cast<uint8_t*>(address);
  // A fork would double what is locked, and could write into a transfer's pages.
  madvise(data_, mapped_, MADV_DONTFORK);
  // Faster to copy, where the system offers them for memory files (shmem_enabled).
  madvise(data_, mapped_, MADV_HUGEPAGE);
}

MappedFile::~MappedFile() {
  munmap(data_, mapped_);
  if (fd_ >= 0) close(fd_);
}

void MappedFile::release() noexcept {
  if (fd_ < 0) return;
  if (own_) {
    fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, static_cast<off_t>(mapped_));
  }
  close(fd_);
  fd_ = -1;
}

namespace {

uint64_t integer(const Napi::Value& value, const char* name) {
  constexpr double kLargest = 9007199254740992.0;  // 2^53
  const double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : NAN;
  if (!(number >= 0 && number <= kLargest && std::floor(number) == number)) {
    throw Napi::RangeError::New(value.Env(),
                                std::string(name) + " must be an integer from 0 to 2^53");
  }
  return static_cast<uint64_t>(number);
}

uint64_t size_of(const Napi::Value& value) {
  const uint64_t bytes = integer(value, "bytes");
  if (bytes == 0) throw Napi::RangeError::New(value.Env(), "bytes must be positive");
  return bytes;
}

// -> { address, fd, handle }
template <typename Make>
Napi::Value mapped(Napi::Env env, Make make) {
  try {
    std::shared_ptr<MappedFile> memory = make();
    auto result = Napi::Object::New(env);
    result.Set("address", Napi::BigInt::New(env, reinterpret_cast<uint64_t>(memory->data())));
    result.Set("fd", memory->fd());
    result.Set("handle", Handle<MappedFile>::wrap(env, std::move(memory)));
    return result;
  } catch (const Napi::Error&) {
    throw;
  } catch (const std::exception& error) {
    throw Napi::Error::New(env, error.what());
  }
}

Napi::Value allocate(const Napi::CallbackInfo& info) {
  const uint64_t bytes = size_of(info[0]);
  return mapped(info.Env(), [bytes] { return std::make_shared<MappedFile>(bytes); });
}

Napi::Value adopt(const Napi::CallbackInfo& info) {
  const uint64_t file = integer(info[0], "fd");
  const uint64_t bytes = size_of(info[1]);
  return mapped(info.Env(),
                [=] { return std::make_shared<MappedFile>(static_cast<int>(file), bytes); });
}

Napi::Value view(const Napi::CallbackInfo& info) {
  const auto memory = Handle<MappedFile>::unwrap(info[0]);
  const uint64_t offset = integer(info[1], "offset");
  const uint64_t length = integer(info[2], "length");
  if (memory->released()) throw Napi::Error::New(info.Env(), "The memory was freed");
  if (offset > memory->bytes() || length > memory->bytes() - offset) {
    throw Napi::RangeError::New(info.Env(), "offset " + std::to_string(offset) + " and length " +
                                                std::to_string(length) + " reach outside the " +
                                                std::to_string(memory->bytes()) + " bytes");
  }
  if (length == 0) return Napi::Uint8Array::New(info.Env(), 0);
  // Every view holds the mapping, so that one which is still around after free() reads zeros and
  // never faults.
  const auto buffer = Napi::ArrayBuffer::New(
      info.Env(), memory->data() + offset, length,
      [](Napi::Env, void*, std::shared_ptr<MappedFile>* held) { delete held; },
      new std::shared_ptr<MappedFile>(memory));
  return Napi::Uint8Array::New(info.Env(), length, buffer, 0);
}

}  // namespace

void export_memory(Napi::Env env, Napi::Object exports) {
  exports.Set("allocate", Napi::Function::New(env, allocate, "allocate"));
  exports.Set("adopt", Napi::Function::New(env, adopt, "adopt"));
  exports.Set("view", Napi::Function::New(env, view, "view"));
  exports.Set("free", Napi::Function::New(
                          env,
                          [](const Napi::CallbackInfo& info) {
                            Handle<MappedFile>::unwrap(info[0])->release();
                          },
                          "free"));
}

}  // namespace kvx
