#include "writer.h"

#include <spawn.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

namespace {

struct Request {
  int gpu = 0;
  uint32_t shared_bytes = 0;  // 0: host memory
  uint64_t seed = 0, host_bytes = 0;
  uint8_t shared[8192] = {};
};
struct Answer {
  char text[1000] = {};
};

void send(int socket, const void* data, size_t bytes, const std::vector<int>& files = {}) {
  iovec part{const_cast<void*>(data), bytes};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  alignas(cmsghdr) char room[CMSG_SPACE(sizeof(int) * gpu::kMaxParts)] = {};
  if (!files.empty()) {
    const size_t length = files.size() * sizeof(int);
    message.msg_control = room;
    message.msg_controllen = CMSG_SPACE(length);
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    *header = {.cmsg_len = CMSG_LEN(length), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    std::memcpy(CMSG_DATA(header), files.data(), length);
  }
  if (sendmsg(socket, &message, MSG_NOSIGNAL) != static_cast<ssize_t>(bytes)) {
    throw std::runtime_error("the other process is gone");
  }
}

bool receive(int socket, void* data, size_t bytes, std::vector<Fd>* files = nullptr) {
  iovec part{data, bytes};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  alignas(cmsghdr) char room[CMSG_SPACE(sizeof(int) * gpu::kMaxParts)] = {};
  message.msg_control = room;
  message.msg_controllen = sizeof room;
  if (recvmsg(socket, &message, MSG_CMSG_CLOEXEC) != static_cast<ssize_t>(bytes)) return false;
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  if (header == nullptr || files == nullptr) return true;
  const size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
  for (size_t i = 0; i < count; i++) {
    int file = -1;
    std::memcpy(&file, CMSG_DATA(header) + i * sizeof(int), sizeof file);
    files->emplace_back(file);
  }
  return true;
}

gpu::Batch whole(gpu::Address source, gpu::Address destination, uint64_t bytes, gpu::Path path) {
  return {{{.path = path, .run_bytes = bytes}, {{source, destination}}, {{0, 0}}}};
}

void serve(const Request& request, std::vector<Fd> files) {
  const auto context = gpu::Context::open(request.gpu);
  gpu::Copier copier(context, {});
  if (request.shared_bytes == 0) {
    void* at =
        mmap(nullptr, request.host_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, files.at(0).get(), 0);
    if (at == MAP_FAILED) throw std::runtime_error("mmap failed");
    {
      const gpu::HostMemory host(context, at, request.host_bytes);
      const gpu::Allocation source(context, request.host_bytes);
      write(*context, source.address(), pattern(request.host_bytes, request.seed));
      copy_now(copier,
               whole(source.address(), host.address(), request.host_bytes, gpu::Path::kToHost));
    }
    munmap(at, request.host_bytes);
    return;
  }
  gpu::Shared shared = gpu::decode({request.shared, request.shared_bytes});
  for (size_t i = 0; i < files.size(); i++) shared.parts.at(i).file = std::move(files[i]);
  gpu::Importer importer(context);
  const auto there = importer.map(shared);
  const auto again = importer.map(shared);
  if (again->address() != there->address()) throw std::runtime_error("mapped twice");
  const gpu::Allocation source(context, shared.bytes);
  write(*context, source.address(), pattern(shared.bytes, request.seed));
  copy_now(copier, whole(source.address(), there->address(), shared.bytes, gpu::Path::kPeer));
}

}  // namespace

int writer(int socket) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  Request request;
  std::vector<Fd> files;
  while (receive(socket, &request, sizeof request, &files)) {
    Answer answer;
    try {
      serve(request, std::move(files));
    } catch (const std::exception& error) {
      std::strncpy(answer.text, error.what(), sizeof answer.text - 1);
    }
    files.clear();
    send(socket, &answer, sizeof answer);
  }
  return 0;
}

Writer::Writer(int gpu) : gpu_(gpu) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
    throw std::runtime_error("socketpair failed");
  }
  // The child's end passes exec under this number.
  constexpr int kSocket = 100;
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], kSocket);
  std::string program = "/proc/self/exe", role = "--writer", number = std::to_string(kSocket);
  char* words[] = {program.data(), role.data(), number.data(), nullptr};
  const int failed = posix_spawn(&process_, program.c_str(), &actions, nullptr, words, environ);
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  socket_ = ends[0];
  if (failed != 0) throw std::runtime_error("the second process could not be started");
}

Writer::~Writer() {
  close(socket_);
  waitpid(process_, nullptr, 0);
}

std::string Writer::ask(const Bytes& shared, const std::vector<int>& files, uint64_t seed,
                        uint64_t host_bytes) {
  Request request{.gpu = gpu_,
                  .shared_bytes = static_cast<uint32_t>(shared.size()),
                  .seed = seed,
                  .host_bytes = host_bytes};
  if (shared.size() > sizeof request.shared) throw std::runtime_error("too large");
  std::copy(shared.begin(), shared.end(), request.shared);
  send(socket_, &request, sizeof request, files);
  Answer answer;
  if (!receive(socket_, &answer, sizeof answer)) return "the second process is gone";
  return answer.text;
}

std::string Writer::write_pattern(const gpu::Shared& shared, uint64_t seed) {
  std::vector<int> files;
  for (const auto& part : shared.parts) {
    if (part.file) files.push_back(part.file.get());
  }
  return ask(encode(shared), files, seed, 0);
}

std::string Writer::write_pattern(int file, uint64_t bytes, uint64_t seed) {
  return ask({}, {file}, seed, bytes);
}
