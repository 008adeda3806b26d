#include "kvx/engine/outbox.h"

#include "check.h"

using kvx::Event;
using kvx::engine::Outbox;

TEST("the first event of a batch notifies, the others do not, and so for each batch") {
  int notified = 0;
  Outbox outbox([&] { notified++; });
  outbox.done(1, 10, 20, {1});
  outbox.fail(2, {"ERR_KVX_CLOSED", "why"});
  outbox.settled(2);
  outbox.peer_gone("somebody", "exited");
  CHECK(notified == 1);
  const auto events = outbox.take();
  CHECK(events.size() == 4);
  CHECK(events[0].kind == Event::Kind::kDone && events[0].operation == 1);
  CHECK(events[0].first == 10 && events[0].second == 20 && events[0].bytes == kvx::Bytes{1});
  CHECK(events[1].kind == Event::Kind::kFailed && events[1].code == "ERR_KVX_CLOSED");
  CHECK(events[2].kind == Event::Kind::kSettled && events[2].operation == 2);
  CHECK(events[3].kind == Event::Kind::kPeerGone && events[3].peer == "somebody");
  CHECK(outbox.take().empty());
  outbox.settled(3);
  CHECK(notified == 2);
}
