#include "memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <string>
#include <system_error>

#include "kvx/handle.h"

namespace kvx {

namespace {

[[noreturn]] void fail(const char* what) {
  throw std::system_error(errno, std::generic_category(), what);
}

}  // namespace

MappedFile::MappedFile(uint64_t bytes) : bytes_(bytes) {
  const auto page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  mapped_ = (bytes + page - 1) / page * page;
  fd_ = memfd_create("kvx", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd_ < 0) fail("memfd_create");
  void* address = MAP_FAILED;
  if (ftruncate(fd_, static_cast<off_t>(mapped_)) == 0 &&
      fcntl(fd_, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0) {
    address = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
  }
  if (address == MAP_FAILED) {
    const int error = errno;
    close(fd_);
    errno = error;
    fail("mapping a memory file");
  }
  data_ = static_cast<uint8_t*>(address);
  // A fork would double what is locked, and could write into a transfer's pages.
  madvise(data_, mapped_, MADV_DONTFORK);
}

MappedFile::~MappedFile() {
  munmap(data_, mapped_);
  if (fd_ >= 0) close(fd_);
}

void MappedFile::release() noexcept {
  if (fd_ < 0) return;
  fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, static_cast<off_t>(mapped_));
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

Napi::Value allocate(const Napi::CallbackInfo& info) {
  const uint64_t bytes = integer(info[0], "bytes");
  if (bytes == 0) throw Napi::RangeError::New(info.Env(), "bytes must be positive");
  try {
    auto memory = std::make_shared<MappedFile>(bytes);
    auto result = Napi::Object::New(info.Env());
    result.Set("address",
               Napi::BigInt::New(info.Env(), reinterpret_cast<uint64_t>(memory->data())));
    result.Set("fd", memory->fd());
    result.Set("handle", Handle<MappedFile>::wrap(info.Env(), std::move(memory)));
    return result;
  } catch (const std::system_error& error) {
    throw Napi::Error::New(info.Env(), error.what());
  }
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
  exports.Set("view", Napi::Function::New(env, view, "view"));
  exports.Set("free", Napi::Function::New(
                          env,
                          [](const Napi::CallbackInfo& info) {
                            Handle<MappedFile>::unwrap(info[0])->release();
                          },
                          "free"));
}

}  // namespace kvx
