// Which instruction sets Highway (https://github.com/google/highway) translates the vector code for: AVX-512, AVX2 and the baseline of the
// compiler. What lies between is not worth its compile time. Included before any header of Highway.
#pragma once

#ifndef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS ((1LL << 11) | (1LL << 12))  // HWY_SSE4, HWY_SSSE3
#endif
