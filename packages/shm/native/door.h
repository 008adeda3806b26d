// The owner's side: hands its memory to writers of the same user on the same machine, knows which
// writer generations may still write to it, and can bar a generation for good.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>

#include "address.h"
#include "channel.h"
#include "kvx/driver.h"
#include "kvx/gpu/share.h"

namespace kvx::shm {

class Door {
 public:
  // Throws DriverError when the socket cannot be opened. `exited` is told of writers whose process
  // has ended, on the door's thread.
  Door(const Address& address, std::function<void(const Generation&, pid_t)> exited);
  ~Door();
  Door(const Door&) = delete;
  Door& operator=(const Door&) = delete;

  // Writers that connect from now on can have it. Duplicates the file.
  void add_region(RegionId id, int file, uint64_t bytes);
  void add_region(RegionId id, gpu::Shared shared);
  void remove_region(RegionId id);

  // Bars the generation: it is refused from now on. True when nothing of it can land in memory of
  // ours any more.
  bool fenced(const Generation& generation);

 private:
  struct Writer {
    Fd socket;  // empty: it has let go. Its process, which may be about to end, is still watched
    PeerProcess process;
    Nonce nonce{};
    Clock::time_point deadline;  // for its hello, or for its end after it has let go
    Generation generation;       // empty until it was let in
    bool gpu = false;            // a GPU writes for it
    bool hung_up = false;        // as the thread has seen it
    bool exited = false;
  };
  struct Region {
    Fd file;  // of memory of the host
    uint64_t bytes = 0;
    std::optional<gpu::Shared> shared;  // of memory of a GPU
  };

  // What epoll tells of: the door's own two descriptors, and of each writer its socket (twice its
  // number) and its process (one more).
  static constexpr uint64_t kListener = 0, kStop = 1, kFirstWriter = 1;

  void run();
  void accept_one();
  void pause_accepting(bool paused);
  // Reads what has come. Answers false when the connection has ended, or must.
  bool take_requests(Writer& writer);
  bool take(Writer& writer, const Request& request);
  bool let_in(Writer& writer, const Request& hello);
  bool hand_over(Writer& writer, RegionId id);
  std::string refusal(const Writer& writer, const Request& hello) const;
  // Whether nothing can land of this connection any more.
  bool is_over(Writer& writer);
  void on_hung_up(uint64_t number, Writer& writer);
  void on_exited(uint64_t number, Writer& writer);
  void let_go(Writer& writer);
  void drop(uint64_t number);

  const Generation generation_;
  const std::function<void(const Generation&, pid_t)> exited_;
  Fd listener_, stop_, events_;
  bool paused_ = false;             // the thread's own, like the next
  Clock::time_point accept_again_;  // while it is paused

  std::mutex mutex_;  // guards what follows
  std::map<RegionId, Region> regions_;
  std::map<uint64_t, Writer> writers_;
  uint64_t next_writer_ = kFirstWriter;
  std::set<Generation> barred_;
  std::set<Generation> admitted_;  // that were let in at some time

  std::thread thread_;
};

}  // namespace kvx::shm
