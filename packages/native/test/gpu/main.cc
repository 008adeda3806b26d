// gpu --list: the sentences, one a line. gpu SENTENCE: runs that test. gpu --writer SOCKET: the
// second process of a test. gpu --bench full|small: bandwidth. Which driver it uses is
// KVX_CUDA_LIBRARY's to say: the fake one of
// ../fake-cuda, or the real one of a machine with GPUs.
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>

#include "../parts/check.h"
#include "bench.h"
#include "writer.h"

int main(int count, char** words) {
  const std::string wanted = count >= 2 ? words[1] : "";
  if (wanted == "--writer" && count == 3) return writer(std::atoi(words[2]));
  try {
    if (wanted == "--bench" && count == 3) return bench(std::string(words[2]) == "full");
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  for (const auto& test : parts::tests()) {
    if (wanted == "--list") std::puts(test.sentence.c_str());
    if (wanted != test.sentence) continue;
    try {
      test.body();
      return 0;
    } catch (const std::exception& error) {
      std::fprintf(stderr, "%s\n", error.what());
      return 1;
    }
  }
  if (wanted == "--list") return 0;
  std::fprintf(stderr, "There is no such test.\n");
  return 2;
}
