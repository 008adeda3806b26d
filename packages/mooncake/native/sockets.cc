#include "sockets.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <optional>

namespace kvx::mooncake {
namespace {

using Clock = std::chrono::steady_clock;

template <typename T>
std::optional<T> option(int descriptor, int name) {
  T value{};
  socklen_t bytes = sizeof value;
  if (getsockopt(descriptor, SOL_SOCKET, name, &value, &bytes) != 0) return std::nullopt;
  return value;
}

struct Endpoint {
  std::string host;
  uint16_t port = 0;
};

// IPv4 addresses are written the same whichever kind of socket holds them.
Endpoint endpoint(const sockaddr_storage& address) {
  char text[INET6_ADDRSTRLEN] = {};
  if (address.ss_family == AF_INET) {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(address);
    inet_ntop(AF_INET, &v4.sin_addr, text, sizeof text);
    return {text, ntohs(v4.sin_port)};
  }
  const auto& v6 = reinterpret_cast<const sockaddr_in6&>(address);
  if (IN6_IS_ADDR_V4MAPPED(&v6.sin6_addr)) {
    inet_ntop(AF_INET, &v6.sin6_addr.s6_addr[12], text, sizeof text);
  } else {
    inet_ntop(AF_INET6, &v6.sin6_addr, text, sizeof text);
  }
  return {text, ntohs(v6.sin6_port)};
}

Endpoint endpoint(int descriptor, int (*ask)(int, sockaddr*, socklen_t*)) {
  sockaddr_storage address{};
  socklen_t bytes = sizeof address;
  if (ask(descriptor, reinterpret_cast<sockaddr*>(&address), &bytes) != 0) return {};
  return endpoint(address);
}

// The numbers in /proc/self/fd, without that of the folder itself, which is soon another one's.
std::vector<int> open_descriptors() {
  std::vector<int> numbers;
  DIR* folder = opendir("/proc/self/fd");
  if (!folder) return numbers;
  while (const dirent* entry = readdir(folder)) {
    const int number = std::atoi(entry->d_name);
    if (entry->d_name[0] != '.' && number != dirfd(folder)) numbers.push_back(number);
  }
  closedir(folder);
  return numbers;
}

bool is_tcp(int descriptor) {
  const auto domain = option<int>(descriptor, SO_DOMAIN);
  return (domain == AF_INET || domain == AF_INET6) &&
         option<int>(descriptor, SO_PROTOCOL) == IPPROTO_TCP;
}

// True when the other side has closed or is gone. Throws away what still comes.
bool ended(int descriptor) {
  char buffer[4096];
  for (;;) {
    const ssize_t got = recv(descriptor, buffer, sizeof buffer, MSG_DONTWAIT);
    if (got > 0 || (got < 0 && errno == EINTR)) continue;
    return got == 0 || (errno != EAGAIN && errno != EWOULDBLOCK);
  }
}

}  // namespace

Descriptor::~Descriptor() {
  if (number_ >= 0) close(number_);
}

void keep_from_children() {
  for (const int number : open_descriptors()) {
    if (is_tcp(number)) fcntl(number, F_SETFD, FD_CLOEXEC);
  }
}

void TcpSocket::shut_down() const {
  shutdown(descriptor.number(), SHUT_RDWR);
}

std::vector<TcpSocket> tcp_sockets() {
  std::vector<TcpSocket> sockets;
  for (const int number : open_descriptors()) {
    // Asked of the duplicate: the number itself may be closed and given out again at any moment.
    Descriptor descriptor(fcntl(number, F_DUPFD_CLOEXEC, 3));
    struct stat status{};
    const int own = descriptor.number();
    if (own < 0 || fstat(own, &status) != 0 || !S_ISSOCK(status.st_mode) || !is_tcp(own)) continue;
    const Endpoint peer = endpoint(own, getpeername);
    sockets.push_back({std::move(descriptor), status.st_ino,
                       option<int>(own, SO_ACCEPTCONN).value_or(0) != 0,
                       endpoint(own, getsockname).port, peer.port, peer.host});
  }
  return sockets;
}

std::vector<TcpSocket> closed_since(std::vector<TcpSocket> before) {
  // A duplicate of ours is in the list too: a socket that is open elsewhere has its inode twice.
  std::vector<ino_t> inodes;
  for (const int number : open_descriptors()) {
    struct stat status{};
    if (fstat(number, &status) == 0 && S_ISSOCK(status.st_mode)) inodes.push_back(status.st_ino);
  }
  std::erase_if(before, [&](const TcpSocket& socket) {
    return std::count(inodes.begin(), inodes.end(), socket.inode) > 1;
  });
  return before;
}

size_t await_peer_close(const std::vector<TcpSocket>& connections,
                        std::chrono::milliseconds patience) {
  const auto deadline = Clock::now() + patience;
  std::vector<int> waiting;
  for (const TcpSocket& connection : connections) {
    shutdown(connection.descriptor.number(), SHUT_WR);
    waiting.push_back(connection.descriptor.number());
  }
  for (;;) {
    std::erase_if(waiting, ended);
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
    if (waiting.empty() || left <= 0) return waiting.size();
    std::vector<pollfd> polls;
    for (const int descriptor : waiting) polls.push_back({descriptor, POLLIN, 0});
    poll(polls.data(), polls.size(), static_cast<int>(left));
  }
}

std::vector<ino_t> tcp_inodes() {
  std::vector<ino_t> inodes;
  for (const TcpSocket& socket : tcp_sockets()) inodes.push_back(socket.inode);
  return inodes;
}

std::vector<std::string> addresses_of(const std::string& host) {
  std::vector<std::string> addresses;
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), nullptr, &hints, &found) != 0) return addresses;
  for (const addrinfo* one = found; one; one = one->ai_next) {
    sockaddr_storage address{};
    std::memcpy(&address, one->ai_addr, std::min<size_t>(one->ai_addrlen, sizeof address));
    addresses.push_back(endpoint(address).host);
  }
  freeaddrinfo(found);
  return addresses;
}

void interrupt_connections(const std::vector<std::string>& hosts, uint16_t port,
                           const std::vector<ino_t>& before) {
  for (const TcpSocket& socket : tcp_sockets()) {
    if (socket.peer_port != port) continue;
    if (std::find(hosts.begin(), hosts.end(), socket.peer_host) == hosts.end()) continue;
    if (std::find(before.begin(), before.end(), socket.inode) != before.end()) continue;
    socket.shut_down();
  }
}

uint16_t free_port() {
  const Descriptor descriptor(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in any{};
  any.sin_family = AF_INET;
  bind(descriptor.number(), reinterpret_cast<const sockaddr*>(&any), sizeof any);
  return endpoint(descriptor.number(), getsockname).port;
}

void reserve_port(uint16_t port) {
  constexpr size_t kMost = 128;
  static std::mutex mutex;
  static auto& reserved = *new std::deque<Descriptor>;
  Descriptor descriptor(socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_storage address{};
  socklen_t bytes = sizeof(sockaddr_in6);
  if (descriptor.number() >= 0) {
    const int off = 0;
    setsockopt(descriptor.number(), IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    auto& v6 = reinterpret_cast<sockaddr_in6&>(address);
    v6.sin6_family = AF_INET6;
    v6.sin6_port = htons(port);
  } else {  // a machine without IPv6
    descriptor = Descriptor(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    auto& v4 = reinterpret_cast<sockaddr_in&>(address);
    v4.sin_family = AF_INET;
    v4.sin_port = htons(port);
    bytes = sizeof(sockaddr_in);
  }
  // On for the bind, since connections of the former owner may still be in TIME_WAIT; off
  // afterwards, so that nobody else can bind it, whatever they set.
  const int on = 1, off = 0;
  setsockopt(descriptor.number(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(descriptor.number(), reinterpret_cast<const sockaddr*>(&address), bytes) != 0) return;
  setsockopt(descriptor.number(), SOL_SOCKET, SO_REUSEADDR, &off, sizeof off);
  const std::lock_guard lock(mutex);
  reserved.push_back(std::move(descriptor));
  if (reserved.size() > kMost) reserved.pop_front();
}

}  // namespace kvx::mooncake
