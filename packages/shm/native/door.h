// The owner's side: hands its memory files to writers of the same user on the same machine, knows
// which writer generations still have them mapped, and can bar a generation for good.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <thread>

#include "address.h"
#include "channel.h"
#include "kvx/driver.h"

namespace kvx::shm {

class Door {
 public:
  // Throws DriverError when the socket cannot be opened. `exited` is told of writers whose process
  // has ended, on the door's thread.
  Door(const Address& address, std::function<void(const Generation&, pid_t)> exited);
  ~Door();
  Door(const Door&) = delete;
  Door& operator=(const Door&) = delete;

  // Duplicates the file. Writers that connect from now on can have it.
  void add_region(RegionId id, int file, uint64_t bytes);
  void remove_region(RegionId id);

  // Bars the generation: it is refused from now on. True when no process of it has memory of ours
  // mapped.
  bool fenced(const Generation& generation);

 private:
  struct Writer {
    Fd socket;  // empty: it has let go. Its process, which may be about to end, is still watched
    PeerProcess process;
    Nonce nonce{};
    Clock::time_point deadline;  // for its hello, or for its end after it has let go
    Generation generation;       // empty until it was let in
  };
  struct File {
    Fd fd;
    uint64_t bytes = 0;
  };

  // What epoll tells of: the door's own two descriptors, and of each writer its socket (twice its
  // number) and its process (one more).
  static constexpr uint64_t kListener = 0, kStop = 1, kFirstWriter = 1;

  void run();
  void accept_one();
  void pause_accepting(bool paused);
  void greet(Writer& writer);
  // Answers false when the connection must be closed.
  bool take_hello(Writer& writer);
  std::string refusal(const Writer& writer, const Hello& hello) const;
  void let_go(Writer& writer);
  void drop(uint64_t number);

  const Generation generation_;
  const std::function<void(const Generation&, pid_t)> exited_;
  Fd listener_, stop_, events_;
  bool paused_ = false;             // the thread's own, like the next
  Clock::time_point accept_again_;  // while it is paused

  std::mutex mutex_;  // guards what follows
  std::map<RegionId, File> files_;
  std::map<uint64_t, Writer> writers_;
  uint64_t next_writer_ = kFirstWriter;
  std::set<Generation> barred_;
  std::set<Generation> admitted_;  // that were let in at some time

  std::thread thread_;
};

}  // namespace kvx::shm
