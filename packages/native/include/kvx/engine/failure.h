// Why an operation failed, and driver calls that turn what they throw into that.
#pragma once

#include <atomic>
#include <exception>
#include <optional>
#include <string>
#include <utility>

#include "kvx/driver.h"
#include "kvx/thread.h"

namespace kvx::engine {

inline constexpr const char* kAborted = "ERR_KVX_ABORTED";
inline constexpr const char* kClosed = "ERR_KVX_CLOSED";
inline constexpr const char* kConnectFailed = "ERR_KVX_CONNECT_FAILED";
inline constexpr const char* kInternal = "ERR_KVX_INTERNAL";
inline constexpr const char* kInvalidState = "ERR_KVX_INVALID_STATE";
inline constexpr const char* kPlanInvalid = "ERR_KVX_PLAN_INVALID";
inline constexpr const char* kTransferFailed = "ERR_KVX_TRANSFER_FAILED";
inline constexpr const char* kTransferTimeout = "ERR_KVX_TRANSFER_TIMEOUT";
inline constexpr const char* kUnavailable = "ERR_KVX_BACKEND_UNAVAILABLE";
inline constexpr const char* kUnsettled = "ERR_KVX_UNSETTLED";

struct Failure {
  std::string code, message;

  bool operator==(const Failure&) const = default;
};

inline Failure engine_closed() {
  return {kClosed, "The engine is closed."};
}

// What a driver's poll gave as the reason: a code and a colon in front of it are the code.
inline Failure failure_of(std::string reason) {
  const size_t colon = reason.find(": ");
  if (colon != std::string::npos && reason.starts_with("ERR_KVX_") &&
      reason.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZ_") == colon) {
    return {reason.substr(0, colon), reason.substr(colon + 2)};
  }
  if (reason.empty()) reason = "The engine reported that the transfer failed, without a reason.";
  return {kTransferFailed, std::move(reason)};
}

// The driver call that a thread is in, or null.
using Call = std::atomic<const char*>;

// Runs a driver call, whose name is in `call` meanwhile; what it throws becomes the failure.
// `without_thread`: the code when the driver could not start a thread. Never under the lock.
template <typename Body>
std::optional<Failure> guarded(Call& call, const char* name, Body body,
                               const char* without_thread = kInternal) {
  std::optional<Failure> failure;
  call = name;
  try {
    body();
  } catch (const DriverError& error) {
    failure = Failure{error.code(), error.what()};
  } catch (const NoThread& error) {
    failure = Failure{without_thread, error.what()};
  } catch (const std::exception& error) {
    failure = Failure{kInternal, std::string("The driver threw: ") + error.what()};
  } catch (...) {
    failure = Failure{kInternal, "The driver threw something that is no exception."};
  }
  call = nullptr;
  return failure;
}

}  // namespace kvx::engine
