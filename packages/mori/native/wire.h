// How an engine's address and its region descriptors are written: MORI's two descriptions, field by
// field. MORI's own form is msgpack; ours need not be read by anything but kvx with the same MORI.
#pragma once

#include <cstring>
#include <string>

#include "abi.h"
#include "kvx/driver.h"

namespace kvx::mori {

struct EngineAddress {
  std::string mori_version;
  EngineDesc desc;
};

namespace wire {

constexpr uint8_t kFormat = 1;

class Writer {
 public:
  Bytes bytes{kFormat};
  template <typename T>
  void operator()(const T& value) {
    const auto* from = reinterpret_cast<const uint8_t*>(&value);
    bytes.insert(bytes.end(), from, from + sizeof value);
  }
  void operator()(const std::string& text) {
    (*this)(static_cast<uint32_t>(text.size()));
    bytes.insert(bytes.end(), text.begin(), text.end());
  }
};

class Reader {
 public:
  explicit Reader(const Bytes& bytes) : at_(bytes.data()), left_(bytes.size()) {
    uint8_t format = 0;
    (*this)(format);
    if (format != kFormat) malformed();
  }
  template <typename T>
  void operator()(T& value) {
    std::memcpy(&value, take(sizeof value), sizeof value);
  }
  void operator()(std::string& text) {
    uint32_t size = 0;
    (*this)(size);
    if (size > 1024) malformed();
    const uint8_t* from = take(size);
    text.assign(from, from + size);
  }
  void end() const {
    if (left_ != 0) malformed();
  }

 private:
  const uint8_t* take(size_t bytes) {
    if (bytes > left_) malformed();
    const uint8_t* from = at_;
    at_ += bytes;
    left_ -= bytes;
    return from;
  }
  [[noreturn]] static void malformed() {
    throw DriverError("ERR_KVX_CONNECT_FAILED",
                      "The peer's address or a region descriptor is malformed.");
  }
  const uint8_t* at_;
  size_t left_;
};

template <typename Stream, typename Address>
void each_field(Stream& stream, Address& address) {
  stream(address.mori_version);
  stream(address.desc.key), stream(address.desc.node_id), stream(address.desc.hostname);
  stream(address.desc.host), stream(address.desc.port), stream(address.desc.pid);
}

template <typename Stream, typename Memory>
void each_memory_field(Stream& stream, Memory& m) {
  stream(m.engine_key), stream(m.id), stream(m.device_id), stream(m.device_bus_id), stream(m.data);
  stream(m.size), stream(m.location), stream(m.ipc_handle), stream(m.numa_node),
      stream(m.ipc_offset);
  stream(m.fabric_handle), stream(m.vpod_id), stream(m.vpod_ppod_id), stream(m.fabric_offset);
  stream(m.fabric_alloc_size);
}

inline Bytes encode(const EngineAddress& address) {
  Writer writer;
  each_field(writer, address);
  return std::move(writer.bytes);
}

inline Bytes encode(const MemoryDesc& memory) {
  Writer writer;
  each_memory_field(writer, memory);
  return std::move(writer.bytes);
}

inline EngineAddress decode_address(const Bytes& bytes) {
  EngineAddress address{};
  Reader reader(bytes);
  each_field(reader, address);
  reader.end();
  return address;
}

inline MemoryDesc decode_memory(const Bytes& bytes) {
  MemoryDesc memory{};
  Reader reader(bytes);
  each_memory_field(reader, memory);
  reader.end();
  return memory;
}

}  // namespace wire
}  // namespace kvx::mori
