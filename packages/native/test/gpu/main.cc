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
  const std::string wanted = count == 3 ? words[1] : "";
  if (wanted == "--writer") return writer(std::atoi(words[2]));
  if (wanted != "--bench") return parts::run(count, words);
  try {
    return bench(std::string(words[2]) == "full");
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
