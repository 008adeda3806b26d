// Tests of the engine's parts, without Node. Each is a sentence and a body that throws when the
// sentence is false; main.cc runs one by its sentence, parts.test.ts runs all.
#pragma once

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
