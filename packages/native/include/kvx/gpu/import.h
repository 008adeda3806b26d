// Memory of another process, mapped for one GPU.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "kvx/gpu/context.h"
#include "kvx/gpu/share.h"

namespace kvx::gpu {

namespace detail {

// An address range of this process. Inside it memory is mapped and unmapped.
class Reservation {
 public:
  Reservation(Context& context, uint64_t bytes, const char* code)
      : context_(context), bytes_(bytes) {
    context.check(context.api().reserve(&address_, bytes, 0, 0, 0), "cuMemAddressReserve", code);
  }
  ~Reservation() {
    for (const auto& [at, bytes] : mapped_) context_.api().unmap(at, bytes);
    context_.api().unreserve(address_, bytes_);
  }
  Reservation(const Reservation&) = delete;
  Reservation& operator=(const Reservation&) = delete;

  // Maps an allocation, which the mapping holds from now on, for the context's GPU.
  void map(uint64_t offset, uint64_t bytes, AllocationHandle handle, const char* code) {
    const Address at = address_ + offset;
    context_.check(context_.api().map(at, bytes, 0, handle, 0), "cuMemMap", code);
    mapped_.emplace_back(at, bytes);
    const Access access{.location = context_.location()};
    context_.check(context_.api().set_access(at, bytes, &access, 1), "cuMemSetAccess", code);
  }
  Address address() const { return address_; }

 private:
  Context& context_;
  const uint64_t bytes_;
  Address address_ = 0;
  std::vector<std::pair<Address, uint64_t>> mapped_;
};

// The allocations that ranges lie in, one after another from address() on.
class Mapping {
 public:
  virtual ~Mapping() = default;
  virtual Address address() const = 0;
};

inline constexpr const char* kCannotMap = "ERR_KVX_CONNECT_FAILED";

class LegacyMapping : public Mapping {
 public:
  LegacyMapping(Context& context, const SharedPart& part) : context_(context) {
    LegacyHandle handle{};
    std::memcpy(handle.bytes, part.handle.data(), sizeof handle.bytes);
    // Flag 1 makes a peer's memory accessible when it is first needed.
    context.check(context.api().legacy_open(&address_, handle, 1), "cuIpcOpenMemHandle",
                  kCannotMap);
  }
  ~LegacyMapping() override { context_.api().legacy_close(address_); }
  Address address() const override { return address_; }

 private:
  Context& context_;
  Address address_ = 0;
};

class FileMapping : public Mapping {
 public:
  FileMapping(Context& context, const std::vector<SharedPart>& parts)
      : reservation_(context, total(parts), kCannotMap) {
    uint64_t offset = 0;
    for (const SharedPart& part : parts) {
      AllocationHandle handle = 0;
      const auto file = reinterpret_cast<void*>(static_cast<uintptr_t>(part.file.get()));
      context.check(context.api().import_handle(&handle, file, kFileDescriptor),
                    "cuMemImportFromShareableHandle", kCannotMap);
      const struct Release {
        Context& context;
        AllocationHandle handle;
        ~Release() { context.api().release(handle); }
      } release{context, handle};
      reservation_.map(offset, part.bytes, handle, kCannotMap);
      offset += part.bytes;
    }
  }
  Address address() const override { return reservation_.address(); }

 private:
  static uint64_t total(const std::vector<SharedPart>& parts) {
    uint64_t bytes = 0;
    for (const SharedPart& part : parts) bytes += part.bytes;
    return bytes;
  }

  Reservation reservation_;
};

class PoolMapping : public Mapping {
 public:
  PoolMapping(Context& context, const SharedPart& part) : context_(context) {
    const Api& api = context.api();
    const auto file = reinterpret_cast<void*>(static_cast<uintptr_t>(part.file.get()));
    context.check(api.pool_import(&pool_, file, kFileDescriptor, 0),
                  "cuMemPoolImportFromShareableHandle", kCannotMap);
    try {
      const Access access{.location = context.location()};
      context.check(api.pool_set_access(pool_, &access, 1), "cuMemPoolSetAccess", kCannotMap);
      PoolPointer pointer{};
      std::memcpy(pointer.bytes, part.handle.data(), sizeof pointer.bytes);
      context.check(api.pool_import_pointer(&address_, pool_, &pointer), "cuMemPoolImportPointer",
                    kCannotMap);
    } catch (...) {
      api.pool_destroy(pool_);
      throw;
    }
  }
  ~PoolMapping() override {
    context_.api().memory_free(address_);
    context_.api().pool_destroy(pool_);
  }
  Address address() const override { return address_; }

 private:
  Context& context_;
  PoolHandle pool_ = nullptr;
  Address address_ = 0;
};

}  // namespace detail

// A range of another process' GPU memory, mapped for as long as this lives: nothing that copies
// into it may still run when it ends.
class Imported {
 public:
  Imported(std::shared_ptr<Context> context, std::shared_ptr<detail::Mapping> mapping,
           const Shared& shared)
      : context_(std::move(context)),
        mapping_(std::move(mapping)),
        offset_(shared.offset),
        bytes_(shared.bytes) {}
  ~Imported() {
    const Context::Slow current(*context_);
    mapping_.reset();
  }
  Imported(const Imported&) = delete;
  Imported& operator=(const Imported&) = delete;

  Address address() const { return mapping_->address() + offset_; }
  uint64_t bytes() const { return bytes_; }

 private:
  std::shared_ptr<Context> context_;
  std::shared_ptr<detail::Mapping> mapping_;
  const uint64_t offset_, bytes_;
};

// Maps what one peer shares, for one GPU: each allocation once, however many ranges lie in it. One
// per peer, because what makes two allocations equal is what their owner says.
class Importer {
 public:
  explicit Importer(std::shared_ptr<Context> context) : context_(std::move(context)) {}

  // Takes some milliseconds. Throws DriverError("ERR_KVX_CONNECT_FAILED"): in the owner's own
  // process, without peer access, when the owner is gone.
  std::shared_ptr<Imported> map(const Shared& shared) {
    if (shared.files() > 0) {
      for (const SharedPart& part : shared.parts) {
        if (!part.file) {
          throw DriverError(detail::kCannotMap,
                            "The peer's GPU memory came without its file descriptor.");
        }
      }
    }
    const std::lock_guard lock(mutex_);
    const Context::Slow current(*context_);
    std::erase_if(mappings_, [](const auto& entry) { return entry.second.expired(); });
    auto& known = mappings_[key_of(shared)];
    auto mapping = known.lock();
    if (!mapping) {
      try {
        mapping = make(shared);
      } catch (const DriverError& error) {
        throw DriverError(error.code(), std::string("The memory of ") + text(shared.gpu) +
                                            " cannot be mapped for GPU " +
                                            std::to_string(context_->ordinal()) + ": " +
                                            error.what() + ".");
      }
      known = mapping;
    }
    return std::make_shared<Imported>(context_, std::move(mapping), shared);
  }

 private:
  static Bytes key_of(const Shared& shared) {
    Bytes key{static_cast<uint8_t>(shared.kind)};
    for (const SharedPart& part : shared.parts) {
      if (shared.kind == ShareKind::kLegacy) {
        detail::put(key, part.handle.data(), part.handle.size());
      } else {
        detail::put(key, part.id.data(), part.id.size());
      }
    }
    return key;
  }

  std::shared_ptr<detail::Mapping> make(const Shared& shared) const {
    switch (shared.kind) {
      case ShareKind::kLegacy:
        return std::make_shared<detail::LegacyMapping>(*context_, shared.parts[0]);
      case ShareKind::kFile:
        return std::make_shared<detail::FileMapping>(*context_, shared.parts);
      default:
        return std::make_shared<detail::PoolMapping>(*context_, shared.parts[0]);
    }
  }

  const std::shared_ptr<Context> context_;
  std::mutex mutex_;  // guards what follows
  std::map<Bytes, std::weak_ptr<detail::Mapping>> mappings_;
};

}  // namespace kvx::gpu
