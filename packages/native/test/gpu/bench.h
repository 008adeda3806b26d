// Bandwidth of the copy kernel; bench.cc says what is printed.
#pragma once

int bench(bool full);
