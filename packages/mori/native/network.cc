#include "network.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace kvx::mori {
namespace {

class Socket {
 public:
  Socket() : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) {}
  ~Socket() {
    if (fd_ >= 0) close(fd_);
  }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  int fd() const { return fd_; }

 private:
  int fd_;
};

bool parse(const std::string& host, int port, sockaddr_in& address) {
  address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  return inet_pton(AF_INET, host.c_str(), &address.sin_addr) == 1;
}

}  // namespace

std::string cannot_listen(const std::string& host) {
  sockaddr_in address;
  if (!parse(host, 0, address)) return "it is no numeric IPv4 address";
  if (address.sin_addr.s_addr == INADDR_ANY) return "peers need one address to connect to";
  const Socket socket;
  if (socket.fd() < 0) return std::strerror(errno);
  if (bind(socket.fd(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
    return errno == EADDRNOTAVAIL ? "it is no address of this machine" : std::strerror(errno);
  }
  return "";
}

std::string cannot_reach(const std::string& host, int port, Clock::time_point deadline,
                         const std::atomic<bool>& cancelled) {
  sockaddr_in address;
  if (!parse(host, port, address)) return "it is no numeric IPv4 address";
  const Socket socket;
  if (socket.fd() < 0) return std::strerror(errno);
  if (connect(socket.fd(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0) return "";
  if (errno != EINPROGRESS) return std::strerror(errno);
  for (;;) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
    if (cancelled) return "the connect was given up";
    if (left <= 0) return "no answer in time";
    pollfd waiting{socket.fd(), POLLOUT, 0};
    // Looks up now and then, to see whether it was cancelled.
    if (::poll(&waiting, 1, static_cast<int>(std::min<long long>(left, 50))) <= 0) continue;
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(socket.fd(), SOL_SOCKET, SO_ERROR, &error, &size);
    return error == 0 ? "" : std::strerror(error);
  }
}

}  // namespace kvx::mori
