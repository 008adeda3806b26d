// Type-tagged externals: what JavaScript hands back is checked before it is used, so that a wrong
// value throws and never crashes.
#pragma once

#include <memory>
#include <string>

#include "kvx/napi.h"

namespace kvx {

// Each T names itself: `static constexpr uint64_t kTypeTag`, `static constexpr const char*
// kTypeName`.
template <typename T>
class Handle {
 public:
  static Napi::Value wrap(Napi::Env env, std::shared_ptr<T> object) {
    auto external = Napi::External<std::shared_ptr<T>>::New(
        env, new std::shared_ptr<T>(std::move(object)),
        [](Napi::Env, std::shared_ptr<T>* pointer) { delete pointer; });
    const napi_type_tag type = tag();
    external.TypeTag(&type);
    return external;
  }

  static std::shared_ptr<T> unwrap(const Napi::Value& value) {
    if (value.IsExternal()) {
      const auto external = value.As<Napi::External<std::shared_ptr<T>>>();
      const napi_type_tag type = tag();
      if (external.CheckTypeTag(&type)) return *external.Data();
    }
    throw Napi::TypeError::New(value.Env(), std::string("This is not a handle of ") + T::kTypeName);
  }

 private:
  // The address makes the tag differ between addons that compile the same T.
  static napi_type_tag tag() {
    static const char here = 0;
    return {T::kTypeTag, reinterpret_cast<uint64_t>(&here)};
  }
};

}  // namespace kvx
