// How bytes of the host are copied.
#pragma once

#include <cstdint>

namespace kvx::shm {

// As memcpy; what does not overlap. Runs from 32 KiB on go past the caches: the processor then need
// not read what it overwrites, and keeps what it had there. Nobody else sees them before
// `finish_copies`.
void copy(uint8_t* destination, const uint8_t* source, uint64_t bytes);

// Whoever is told after this, by whatever means, sees all that this thread has copied.
void finish_copies();

}  // namespace kvx::shm
