// parts --list: the sentences, one a line. parts SENTENCE: runs that test.
#include "check.h"

int main(int count, char** words) {
  return parts::run(count, words);
}
