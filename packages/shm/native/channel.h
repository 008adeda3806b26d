// The connection between a writer and an owner of memory: one Unix socket. The writer asks, the
// owner answers.
//
//   writer                                   owner
//     connect, SO_PEERCRED, pidfd of owner     accept, SO_PEERCRED, pidfd of writer
//                                   <- Challenge (a nonce)
//     kHello (the nonce, generations) ->
//                                   <- Reply (let in, or why not)
//     kRegion, for each region ->
//                                   <- Reply (its memory file, or how its GPU memory is reached)
//     kGpu: from now on a GPU may write for this process
//     kRelease: everything is unmapped, and nothing that writes runs any more
//
// Each side opens a pidfd of the other by number. A number may be used again after its process is
// gone, so each waits for a message that the other can only have sent after its pidfd was opened:
// then it was that process. The socket stays open for as long as the writer has the memory mapped.
//
// What the end of the socket means. Memory files are unmapped before it, and no child that was
// forked has them mapped: so it tells that the writer has let go. GPU memory is held by a CUDA
// context, which lives as long as any process has the descriptors of the GPU's devices: those are
// inherited by a fork, as the socket is. So for a process whose GPU writes, the end of the socket
// and the end of the process have to come together; an orderly end is said by kRelease.
#pragma once

#include <sys/socket.h>
#include <sys/types.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "kvx/fd.h"

namespace kvx::shm {

inline constexpr uint32_t kMagic = 0x6b767802;
inline constexpr size_t kMaxFiles = 250;  // Linux passes at most 253 descriptors at once
inline constexpr size_t kGenerationLength = 32;
inline constexpr size_t kMaxSharedBytes = 8192;  // of what encodes 250 allocations

using Nonce = std::array<uint8_t, 16>;

struct Challenge {
  uint32_t magic = kMagic;
  uint32_t reserved = 0;
  Nonce nonce{};
};

struct Request {
  enum Kind : uint32_t { kHello = 1, kRegion, kGpu, kRelease };

  uint32_t magic = kMagic;
  uint32_t kind = kHello;
  uint32_t region = 0;  // of kRegion
  uint32_t reserved = 0;
  // Of kHello:
  Nonce nonce{};
  std::array<char, kGenerationLength> writer{};
  std::array<char, kGenerationLength> owner{};
};

// Files come beside it: the memory file of a region, or the descriptors of its GPU memory.
struct Reply {
  uint32_t magic = kMagic;
  uint32_t accepted = 0;
  uint64_t bytes = 0;          // of the region
  uint32_t shared_length = 0;  // 0: a memory file
  uint32_t reserved = 0;
  std::array<uint8_t, kMaxSharedBytes> shared{};  // as kvx::gpu::encode writes it
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
