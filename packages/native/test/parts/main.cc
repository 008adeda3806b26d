// parts --list: the sentences, one a line. parts SENTENCE: runs that test.
#include <cstdio>
#include <exception>
#include <string>

#include "check.h"

int main(int count, char** words) {
  const std::string wanted = count == 2 ? words[1] : "";
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
