// The TCP sockets of this process. Mooncake owns its sockets and tells nothing about them; the
// system does.
//
// Why kvx needs to know: what was written to a socket lies in the target's receive buffer until the
// target's engine reads it. A target that was stopped (SIGSTOP, a debugger, a frozen container)
// does that when it goes on, however long ago the writer closed its end. So closing a writer proves
// nothing by itself. What does prove it is that the *target* closes its end: it does so after it
// has read everything.
#pragma once

#include <netinet/in.h>
#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace kvx::mooncake {

// A descriptor that is closed with this object.
class Descriptor {
 public:
  explicit Descriptor(int number = -1) : number_(number) {}
  Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~Descriptor();
  int number() const { return number_; }

 private:
  int number_;
};

struct TcpSocket {
  Descriptor descriptor;  // a duplicate: it keeps the connection open
  ino_t inode = 0;        // the same for all duplicates of one socket
  bool listening = false;
  uint16_t local_port = 0;
  uint16_t peer_port = 0;  // 0: not connected
  std::string peer_host;   // in numbers

  // Both directions: whoever waits in a call on it returns.
  void shut_down() const;
};

std::vector<TcpSocket> tcp_sockets();

// Mooncake's sockets would be inherited by programs that the host starts, and a connection that
// such a program holds does not end with its engine.
void keep_from_children();

// Those of `before` that the process has closed since.
std::vector<TcpSocket> closed_since(std::vector<TcpSocket> before);

// Ends our side of every connection and waits until the other side has closed too. Answers how many
// did not.
size_t await_peer_close(const std::vector<TcpSocket>& connections,
                        std::chrono::milliseconds patience);

// The addresses that a name or number stands for, in numbers; empty when it cannot be resolved. May
// block.
std::vector<std::string> addresses_of(const std::string& host);

// Makes whoever waits in a read or write on a connection to one of these addresses return.
// Connections that were there `before` are left alone: they are somebody else's.
void interrupt_connections(const std::vector<std::string>& hosts, uint16_t port,
                           const std::vector<ino_t>& before);
std::vector<ino_t> tcp_inodes();

// A port on which nothing listens at the moment.
uint16_t free_port();

// Keeps the port from being used again, by this process or another, while the process lives (or
// until many others were reserved after it): a writer of the engine that had it must not reach
// whoever comes next.
void reserve_port(uint16_t port);

}  // namespace kvx::mooncake
