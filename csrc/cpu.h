// The CPU's way with a job. `Scalar`, `Avx2` and `Avx512` are twins: the same functions with the same results, each
// reading and writing the bytes of its own fields and no others. Knows nothing of torch.
#pragma once

#include "contract.h"

namespace elm::cpu {

// A run is `count` values or fields of one row, from a whole byte on.
#define ELM_DECLARE_LEVEL(Level)                                                               \
  struct Level {                                                                               \
    template <class Value>                                                                     \
    static void pack(const Value* values, int64_t count, Byte* packed);                        \
    template <class Id>                                                                        \
    static void unpack(const Byte* packed, int64_t count, int width, Id* ids);                 \
    template <class Id>                                                                        \
    static void spread(const Id* ids, int64_t count, int width, Byte* bits);                   \
    template <class Value>                                                                     \
    static void sum(const Value* const* rows, int row_count, int64_t channels, Value* out);    \
  };

ELM_DECLARE_LEVEL(Scalar)
ELM_DECLARE_LEVEL(Avx2)    // Haswell (2013), Zen
ELM_DECLARE_LEVEL(Avx512)  // with VBMI: Ice Lake (2019), Zen 4

#define ELM_INSTANTIATE_LEVEL(Level)                                             \
  template void Level::pack(const Byte*, int64_t, Byte*);                        \
  template void Level::pack(const float*, int64_t, Byte*);                       \
  template void Level::pack(const BFloat16*, int64_t, Byte*);                    \
  template void Level::unpack(const Byte*, int64_t, int, Byte*);                 \
  template void Level::unpack(const Byte*, int64_t, int, int16_t*);              \
  template void Level::unpack(const Byte*, int64_t, int, int32_t*);              \
  template void Level::unpack(const Byte*, int64_t, int, int64_t*);              \
  template void Level::spread(const Byte*, int64_t, int, Byte*);                 \
  template void Level::spread(const int16_t*, int64_t, int, Byte*);              \
  template void Level::spread(const int32_t*, int64_t, int, Byte*);              \
  template void Level::spread(const int64_t*, int64_t, int, Byte*);              \
  template void Level::sum(const float* const*, int, int64_t, float*);           \
  template void Level::sum(const BFloat16* const*, int, int64_t, BFloat16*);

/// out = the sum of the rows, in fp32, the first row first. Inlined into each level, whose instructions it then uses.
template <class Value>
[[gnu::always_inline]] inline void sum_in_blocks(const Value* const* rows, int row_count, int64_t channels, Value* out) {
  constexpr int64_t kBlock = 64;
  for (int64_t first = 0; first < channels; first += kBlock) {
    float total[kBlock] = {};
    const int64_t size = channels - first < kBlock ? channels - first : kBlock;
    for (int row = 0; row < row_count; row++) {
      const Value* values = rows[row] + first;
      if (size == kBlock) {
        for (int64_t i = 0; i < kBlock; i++) total[i] += to_float(values[i]);
      } else {
        for (int64_t i = 0; i < size; i++) total[i] += to_float(values[i]);
      }
    }
    for (int64_t i = 0; i < size; i++) from_float(total[i], out[first + i]);
  }
}

enum class Level : int { scalar, avx2, avx512 };

/// The highest level that this processor has.
Level best_level();

/// Into how many tiles a job is cut, and the work on the tiles [begin, end).
template <class Job>
int64_t count_tiles(const Job& job);
template <class Job>
void run(const Job& job, Level level, int64_t begin, int64_t end);

}  // namespace elm::cpu
