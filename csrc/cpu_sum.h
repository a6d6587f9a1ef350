// The sum of rows of tables, written once in vectors of 8 floats, which the compiler turns into the instructions of the
// level that inlines it.
#pragma once

#include "contract.h"

#define ELM_INLINE [[gnu::always_inline]] inline

namespace elm::cpu {

using Floats = float __attribute__((vector_size(32)));
using Words = uint32_t __attribute__((vector_size(32)));

/// The fp32 sums of as many values as 32 bytes hold.
template <class Value>
struct Sums;

template <>
struct Sums<float> {
  Floats total = {};

  ELM_INLINE void add(const float* values) {
    Floats floats;
    memcpy(&floats, values, sizeof floats);
    total += floats;
  }
  ELM_INLINE void store(float* out) const { memcpy(out, &total, sizeof total); }
};

template <>
struct Sums<BFloat16> {
  Floats even = {}, odd = {};  // two values lie in a word; each is the upper half of a float

  ELM_INLINE void add(const BFloat16* values) {
    Words pairs;
    memcpy(&pairs, values, sizeof pairs);
    even += reinterpret_cast<Floats>(pairs << 16);
    odd += reinterpret_cast<Floats>(pairs & 0xffff0000);
  }
  ELM_INLINE void store(BFloat16* out) const {
    const Words pairs = rounded(even) >> 16 | (rounded(odd) & 0xffff0000);
    memcpy(out, &pairs, sizeof pairs);
  }
  ELM_INLINE static Words rounded(Floats floats) {  // as `from_float` in contract.h
    const Words bits = reinterpret_cast<Words>(floats);
    return floats == floats ? bits + 0x7fff + (bits >> 16 & 1) : Words{} + 0x7fc00000;
  }
};

/// As Scalar::sum. Rows lie far apart in memory, so those of the next sum are fetched during this one.
template <class Value>
ELM_INLINE void sum_in_vectors(const Value* const* rows, const Value* const* next, int row_count, int64_t channels,
                               Value* out) {
  constexpr int kVectors = 4, kPerVector = 32 / sizeof(Value), kBlock = kVectors * kPerVector;  // two cache lines
  int64_t first = 0;
  for (; first + kBlock <= channels; first += kBlock) {
    Sums<Value> sums[kVectors];
    for (int row = 0; row < row_count; row++) {
      for (int i = 0; i < kVectors; i++) sums[i].add(rows[row] + first + i * kPerVector);
      for (int i = 0; i < kVectors; i += 2) __builtin_prefetch(next[row] + first + i * kPerVector);
    }
    for (int i = 0; i < kVectors; i++) sums[i].store(out + first + i * kPerVector);
  }
  for (; first < channels; first++) {
    float total = 0;
    for (int row = 0; row < row_count; row++) total += to_float(rows[row][first]);
    from_float(total, out[first]);
  }
}

}  // namespace elm::cpu
