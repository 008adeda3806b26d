// The connection between a writer and an owner of memory: one Unix socket, four messages.
//
//   writer                                   owner
//     connect, SO_PEERCRED, pidfd of owner     accept, SO_PEERCRED, pidfd of writer
//                                   <- Challenge (a nonce)
//     Hello (the nonce, generations, regions) ->
//                                   <- Reply (a memory file per region, or why not)
//
// Each side opens a pidfd of the other by number. A number may be used again after its process is
// gone, so each waits for a message that the other can only have sent after its pidfd was opened:
// then it was that process. The socket stays open for as long as the writer has the memory mapped.
// Its end tells each side that the other has let go, also when the process goes on living.
#pragma once

#include <sys/socket.h>
#include <sys/types.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "kvx/fd.h"

namespace kvx::shm {

inline constexpr uint32_t kMagic = 0x6b767801;
inline constexpr size_t kMaxRegions = 250;  // Linux passes at most 253 descriptors at once
inline constexpr size_t kGenerationLength = 32;

using Nonce = std::array<uint8_t, 16>;

struct Challenge {
  uint32_t magic = kMagic;
  uint32_t reserved = 0;
  Nonce nonce{};
};

struct Hello {
  uint32_t magic = kMagic;
  uint32_t count = 0;
  Nonce nonce{};
  std::array<char, kGenerationLength> writer{};
  std::array<char, kGenerationLength> owner{};
  std::array<uint32_t, kMaxRegions> regions{};
};

// The memory files come beside it, in the order of Hello's regions.
struct Reply {
  uint32_t magic = kMagic;
  uint32_t accepted = 0;
  std::array<uint64_t, kMaxRegions> bytes{};
  std::array<char, 256> reason{};
};

struct PeerProcess {
  uid_t user = 0;
  pid_t id = 0;
  Fd pidfd;
};

// The process at the other end and a pidfd of it, which is empty when that process is already gone.
PeerProcess peer_of(int socket);
// A pidfd, or nothing with errno set.
Fd open_pidfd(pid_t process);

struct SocketName {
  sockaddr_storage storage;
  socklen_t length;
};
SocketName abstract_name(const std::string& name);

// Sends one message whole, or answers false.
bool send_message(int socket, const void* message, size_t bytes,
                  const std::vector<int>& files = {});

// Receives one message of exactly `bytes` with its files: 1 for a message, 0 when there is none
// yet, -1 for the end of the connection or a message of another length.
int receive_message(int socket, void* message, size_t bytes, std::vector<Fd>* files = nullptr);

// Whether the process has exited, or the other side has closed the socket.
bool has_exited(int pidfd);
bool has_ended(int socket);

}  // namespace kvx::shm
