#include "copy.h"

#include <cstring>

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

namespace kvx::shm {

#if defined(__x86_64__)

namespace {

constexpr uint64_t kLongRun = 32 * 1024;
constexpr uint64_t kLine = 64;  // of a cache

// Whole lines, to a destination that is aligned to one: a line that is stored whole is not read
// first.
void stream(uint8_t* destination, const uint8_t* source, uint64_t lines) {
  constexpr uint64_t kAhead = 16 * kLine;  // the processor's own prefetching ends at each page
  auto* to = reinterpret_cast<__m128i*>(destination);
  const auto* from = reinterpret_cast<const __m128i*>(source);
  for (uint64_t i = 0; i < lines; i++, to += 4, from += 4) {
    _mm_prefetch(reinterpret_cast<const char*>(from) + kAhead, _MM_HINT_NTA);
    const __m128i a = _mm_loadu_si128(from), b = _mm_loadu_si128(from + 1);
    const __m128i c = _mm_loadu_si128(from + 2), d = _mm_loadu_si128(from + 3);
    _mm_stream_si128(to, a);
    _mm_stream_si128(to + 1, b);
    _mm_stream_si128(to + 2, c);
    _mm_stream_si128(to + 3, d);
  }
}

}  // namespace

void copy(uint8_t* destination, const uint8_t* source, uint64_t bytes) {
  if (bytes < kLongRun) {
    std::memcpy(destination, source, bytes);
    return;
  }
  const uint64_t head = (0 - reinterpret_cast<uintptr_t>(destination)) % kLine;
  const uint64_t lines = (bytes - head) / kLine;
  const uint64_t tail = head + lines * kLine;
  std::memcpy(destination, source, head);
  stream(destination + head, source + head, lines);
  std::memcpy(destination + tail, source + tail, bytes - tail);
}

void finish_copies() {
  _mm_sfence();
}

#else

void copy(uint8_t* destination, const uint8_t* source, uint64_t bytes) {
  std::memcpy(destination, source, bytes);
}

// Who is told is told with release and acquire: of plain stores that is enough.
void finish_copies() {}

#endif

}  // namespace kvx::shm
