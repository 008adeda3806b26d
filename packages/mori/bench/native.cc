// The same driver without Node: what a C++ host would reach with the same MORI in the same run.
//
//   native LIBRARY STAND-INS VERBS VERSION BYTES
//
// prints its address and its region's descriptor in hex, one a line. Then, for every line of input:
//   connect ADDRESS DESCRIPTOR     connects to another process, prints "ok"
//   write SEGMENT COUNT TIMES      writes COUNT segments that cannot be merged, TIMES one after
//   another, and
//                                  prints the seconds each took
// Ends with its input.
#include <sys/mman.h>

#include <cstdio>
#include <iostream>
#include <sstream>
#include <thread>

#include "../native/driver.h"

using namespace kvx;
using namespace kvx::mori;

static std::string hex(const Bytes& bytes) {
  std::string text;
  char two[3];
  for (const uint8_t byte : bytes) {
    std::snprintf(two, sizeof two, "%02x", byte);
    text += two;
  }
  return text;
}

static Bytes unhex(const std::string& text) {
  Bytes bytes;
  for (size_t i = 0; i + 1 < text.size(); i += 2) {
    bytes.push_back(static_cast<uint8_t>(std::stoi(text.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

int main(int count, char** arguments) try {
  if (count != 6) {
    std::fprintf(stderr, "usage: %s LIBRARY STAND-INS VERBS VERSION BYTES\n", arguments[0]);
    return 2;
  }
  Options options;
  options.values = {{"library", std::string(arguments[1])}, {"standIns", std::string(arguments[2])},
                    {"verbs", std::string(arguments[3])},   {"version", std::string(arguments[4])},
                    {"host", std::string("127.0.0.1")},     {"qpPerTransfer", 4.0}};
  MoriDriver driver(options, {std::to_string(getpid()), [] {}});
  const uint64_t bytes = std::stoull(arguments[5]);
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  Bytes descriptor;
  driver.register_memory(0, {reinterpret_cast<uint64_t>(memory), bytes, MemoryKind::kCpu, 0, -1},
                         descriptor);
  std::cout << hex(driver.address()) << "\n" << hex(descriptor) << std::endl;

  const std::atomic<bool> cancelled{false};
  PeerId peer = 0;
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string command;
    words >> command;
    if (command == "connect") {
      std::string address, region;
      words >> address >> region;
      peer = driver.connect({"peer", unhex(address), {unhex(region)}},
                            Clock::now() + std::chrono::seconds(30), cancelled);
      std::cout << "ok" << std::endl;
    } else if (command == "write") {
      uint64_t size = 0, segments = 0, times = 0;
      words >> size >> segments >> times;
      std::vector<Segment> list;
      // Every second place, so that no two segments are neighbours.
      for (uint64_t i = 0; i < segments; i++)
        list.push_back({0, 0, 2 * i * size, 2 * i * size, size});
      for (uint64_t i = 0; i < times; i++) {
        const auto begin = Clock::now();
        const TransferId id = driver.submit(peer, list, cancelled);
        std::string reason;
        State state;
        // Spins first, then leaves the core to MORI's thread, as a host would that shares its
        // cores.
        while ((state = driver.poll(id, reason)) == State::kPending) {
          if (Clock::now() - begin > std::chrono::microseconds(50)) {
            std::this_thread::sleep_for(std::chrono::microseconds(20));
          }
        }
        if (state != State::kDone) throw std::runtime_error(reason);
        driver.release(id);
        std::cout << std::chrono::duration<double>(Clock::now() - begin).count() << " ";
      }
      std::cout << std::endl;
    }
  }
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
