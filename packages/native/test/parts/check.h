// Tests in C++, without Node. Each is a sentence and a body that throws when the sentence is false.
// A program of them lists the sentences (--list), or runs one.
#pragma once

#include <cstdio>
#include <exception>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace parts {

struct Test {
  std::string sentence;
  void (*body)();
};

inline std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}

struct Registration {
  Registration(const char* sentence, void (*body)()) { tests().push_back({sentence, body}); }
};

[[noreturn]] inline void fail(const char* file, int line, const std::string& what) {
  std::ostringstream text;
  text << file << ":" << line << ": " << what;
  throw std::runtime_error(text.str());
}

// The program: answers its exit code.
inline int run(int count, char** words) {
  const std::string wanted = count == 2 ? words[1] : "";
  for (const Test& test : tests()) {
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

}  // namespace parts

#define TEST_NAME(a, b) a##b
#define TEST_AT(line, sentence)                                                            \
  static void TEST_NAME(test_, line)();                                                    \
  static const parts::Registration TEST_NAME(registration_, line)(sentence,                \
                                                                  TEST_NAME(test_, line)); \
  static void TEST_NAME(test_, line)()
#define TEST(sentence) TEST_AT(__LINE__, sentence)
#define CHECK(condition) \
  if (!(condition)) parts::fail(__FILE__, __LINE__, "not true: " #condition)
