#include "kvx/engine/failure.h"

#include <stdexcept>
#include <string>

#include "check.h"

using namespace kvx::engine;

TEST("a code in front of a reason is the code, and what only looks like one is text") {
  CHECK((failure_of("ERR_KVX_PEER_LOST: gone") == Failure{"ERR_KVX_PEER_LOST", "gone"}));
  for (const std::string text :
       {"ERR_KVX_lost: gone", "ERR_OTHER: gone", "gone: ERR_KVX_PEER_LOST", "ERR_KVX_PEER_LOST"}) {
    CHECK((failure_of(text) == Failure{kTransferFailed, text}));
  }
  CHECK(failure_of("").code == kTransferFailed);
  CHECK(!failure_of("").message.empty());
}

TEST("whatever a driver call throws is a failure with a code, and the call is over") {
  Call call{nullptr};
  const auto of = [&](auto body) { return guarded(call, "poll", body, kUnavailable); };
  CHECK(!of([&] { CHECK(std::string(call) == "poll"); }));
  CHECK((of([] { throw kvx::DriverError("ERR_KVX_MEMORY", "full"); }) ==
         Failure{"ERR_KVX_MEMORY", "full"}));
  const std::system_error none(std::make_error_code(std::errc::resource_unavailable_try_again));
  CHECK(of([&] { throw kvx::NoThread("x", none); })->code == kUnavailable);
  CHECK(
      (of([] { throw std::runtime_error("odd"); }) == Failure{kInternal, "The driver threw: odd"}));
  CHECK(of([] { throw 7; })->code == kInternal);
  CHECK(call == nullptr);
}
