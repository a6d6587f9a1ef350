// The CPU's way with a job. `Scalar`, `Avx2` and `Avx512` are twins: the same functions with the same results, each
// reading and writing the bytes of its own fields and no others. Knows nothing of torch.
#pragma once

#include "contract.h"

namespace elm::cpu {

// `pack`, `unpack` and `spread` work on a run: `count` values or fields of one row, from a whole byte on. `sum` adds up
// rows of tables, in fp32, the first row first; `next` are the rows of the sum that comes next.
#define ELM_DECLARE_LEVEL(Level)                                                        \
  struct Level {                                                                        \
    template <class Value>                                                              \
    static void pack(const Value* values, int64_t count, Byte* packed);                 \
    template <class Id>                                                                 \
    static void unpack(const Byte* packed, int64_t count, int width, Id* ids);          \
    template <class Id>                                                                 \
    static void spread(const Id* ids, int64_t count, int width, Byte* bits);            \
    template <class Value>                                                              \
    static void sum(const Value* const* rows, const Value* const* next, int row_count,  \
                    int64_t channels, Value* out);                                      \
  };

ELM_DECLARE_LEVEL(Scalar)
ELM_DECLARE_LEVEL(Avx2)    // Haswell (2013), Zen
ELM_DECLARE_LEVEL(Avx512)  // with VBMI: Ice Lake (2019), Zen 4

#define ELM_INSTANTIATE_LEVEL(Level)                                                         \
  template void Level::pack(const Byte*, int64_t, Byte*);                                    \
  template void Level::pack(const float*, int64_t, Byte*);                                   \
  template void Level::pack(const BFloat16*, int64_t, Byte*);                                \
  template void Level::unpack(const Byte*, int64_t, int, Byte*);                             \
  template void Level::unpack(const Byte*, int64_t, int, int16_t*);                          \
  template void Level::unpack(const Byte*, int64_t, int, int32_t*);                          \
  template void Level::unpack(const Byte*, int64_t, int, int64_t*);                          \
  template void Level::spread(const Byte*, int64_t, int, Byte*);                             \
  template void Level::spread(const int16_t*, int64_t, int, Byte*);                          \
  template void Level::spread(const int32_t*, int64_t, int, Byte*);                          \
  template void Level::spread(const int64_t*, int64_t, int, Byte*);                          \
  template void Level::sum(const float* const*, const float* const*, int, int64_t, float*);  \
  template void Level::sum(const BFloat16* const*, const BFloat16* const*, int, int64_t, BFloat16*);

enum class Level : int { scalar, avx2, avx512 };

/// The highest level that this processor has.
Level best_level();

/// Into how many tiles a job is cut, and the work on the tiles [begin, end).
template <class Job>
int64_t count_tiles(const Job& job);
template <class Job>
void run(const Job& job, Level level, int64_t begin, int64_t end);

}  // namespace elm::cpu
